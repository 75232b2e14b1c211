import { execFileSync } from 'node:child_process';
import { ftruncateSync, statSync, truncateSync, writeSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import type { Core } from '#src/core/core';
import { loadCore } from '#src/core/load';
import { MiB } from '#src/runtime/sizes';
import { needs } from '../support/needs.js';
import { runProcess } from '../support/process.js';
import { describeCores } from './cores.js';
import { copyJob, sharedBytes } from './jobs.js';
import { Scratch } from './scratch.js';

const testNative = needs('native core');

async function tryLockElsewhere(path: string, mode: 'shared' | 'exclusive'): Promise<string> {
  const program = fileURLToPath(new URL('try-lock.mjs', import.meta.url));
  return (await runProcess(process.execPath, [program, path, mode])).stdout;
}

/** Which bytes of a file are not zero, as [start, end) ranges. */
function nonZero(bytes: Uint8Array): number[] {
  const ends: number[] = [];
  bytes.forEach((byte, i) => {
    if ((byte !== 0) !== (ends.length % 2 === 1)) ends.push(i);
  });
  if (ends.length % 2 === 1) ends.push(bytes.length);
  return ends;
}

describeCores((testCore, name) => {
  testCore('gives no error but an answer where it cannot lock', (core) => {
    using scratch = new Scratch();
    expect(core.lock(scratch.create('file'), 'exclusive')).toBe(name === 'native' ? 'locked' : 'unsupported');
  });

  testCore('data ranges cover all data, in order, within the range asked for', (core) => {
    using scratch = new Scratch();
    const fd = scratch.create('file');
    ftruncateSync(fd, 4 * MiB);
    const places = [100, 1 * MiB, 3 * MiB + 4095];
    for (const place of places) writeSync(fd, Uint8Array.of(1), 0, 1, place);
    for (const [offset, length] of [
      [0, 4 * MiB],
      [50, 3 * MiB],
      [1 * MiB, 1],
      [4 * MiB - 1, 1],
    ] as const) {
      const ends = [...core.dataRanges(fd, offset, length)];
      expect(ends).toEqual([...ends].sort((one, other) => one - other));
      expect(ends.every((end) => end >= offset && end <= offset + length)).toBe(true);
      for (const place of places.filter((place) => place >= offset && place < offset + length)) {
        expect(ends.findIndex((end) => end > place) % 2, `${place} is inside a data range`).toBe(1);
      }
    }
    expect([...core.dataRanges(fd, 5, 0)]).toEqual([]);
  });

  testCore('zeroing makes exactly its range zero, or says that it did nothing', async (core) => {
    using scratch = new Scratch();
    for (const mayTrim of [true, false]) {
      const fd = scratch.create('file', new Uint8Array(100_000).fill(1));
      const done = await core.zeroRange(fd, 5000, 40_001, mayTrim);
      expect(nonZero(scratch.content('file'))).toEqual(done ? [0, 5000, 45_001, 100_000] : [0, 100_000]);
      if (name === 'native' && mayTrim) expect(done).toBe(true);
    }
  });

  testCore('neither zeroing nor discarding makes a file larger', async (core) => {
    using scratch = new Scratch();
    const fd = scratch.create('file', new Uint8Array(5000).fill(1));
    await core.zeroRange(fd, 4000, 10_000, false);
    await core.zeroRange(fd, 4000, 10_000, true);
    await core.discard(fd, 4000, 10_000);
    expect(scratch.content('file').length).toBe(5000);
  });

  testCore('a file that is no block special file has no geometry', (core) => {
    using scratch = new Scratch();
    const fd = scratch.create('file');
    expect(() => core.blockGeometry(fd, scratch.path('file'))).toThrow(
      expect.objectContaining({ code: 'DEVICE_UNSUPPORTED' }),
    );
  });
});

testNative('an exclusive lock keeps every other opener out until it is closed', async () => {
  using scratch = new Scratch();
  const core = await loadCore('native');
  const path = scratch.path('file');
  const first = scratch.create('file');
  const second = scratch.open(path, 'r+');
  expect(core.lock(first, 'exclusive')).toBe('locked');
  expect(core.lock(first, 'exclusive')).toBe('locked');
  for (const mode of ['shared', 'exclusive'] as const) {
    expect(core.lock(second, mode)).toBe('busy');
    expect(await tryLockElsewhere(path, mode)).toBe('busy');
  }
  // Closing another descriptor of the same file does not lose the lock, as it would with the locks of POSIX.
  scratch.close(second);
  expect(await tryLockElsewhere(path, 'exclusive')).toBe('busy');
  scratch.close(first);
  expect(await tryLockElsewhere(path, 'exclusive')).toBe('locked');
});

testNative('shared locks go together and keep writers out', async () => {
  using scratch = new Scratch();
  const core = await loadCore('native');
  const path = scratch.path('file');
  expect(core.lock(scratch.create('file'), 'shared')).toBe('locked');
  expect(core.lock(scratch.open(path, 'r'), 'shared')).toBe('locked');
  expect(await tryLockElsewhere(path, 'shared')).toBe('locked');
  expect(await tryLockElsewhere(path, 'exclusive')).toBe('busy');
});

testNative('an exclusive lock needs a file that is open for writing', async () => {
  using scratch = new Scratch();
  const core = await loadCore('native');
  scratch.create('file');
  const readOnly = scratch.open(scratch.path('file'), 'r');
  expect(() => core.lock(readOnly, 'exclusive')).toThrow(expect.objectContaining({ code: 'DEVICE_IO' }));
});

testNative('zeroing and discarding give the space back', async () => {
  using scratch = new Scratch();
  const core = await loadCore('native');
  const zeroed = scratch.create('zeroed', new Uint8Array(MiB).fill(1));
  const discarded = scratch.create('discarded', new Uint8Array(MiB).fill(1));
  expect(await core.zeroRange(zeroed, 4096, MiB - 8192, true)).toBe(true);
  expect(await core.discard(discarded, 4096, MiB - 8192)).toBe(true);
  for (const [file, fd] of [
    ['zeroed', zeroed],
    ['discarded', discarded],
  ] as const) {
    expect(nonZero(scratch.content(file))).toEqual([0, 4096, MiB - 4096, MiB]);
    expect([...core.dataRanges(fd, 0, MiB)]).toEqual([0, 4096, MiB - 4096, MiB]);
    expect(statSync(scratch.path(file)).blocks * 512).toBeLessThan(MiB / 2);
  }
});

testNative('failures of the system carry their range', async () => {
  using scratch = new Scratch();
  const core = await loadCore('native');
  scratch.create('file', new Uint8Array(100));
  const readOnly = scratch.open(scratch.path('file'), 'r');
  const failure = { code: 'DEVICE_IO', offsetBytes: 7, lengthBytes: 50 };
  await expect(core.zeroRange(readOnly, 7, 50, true)).rejects.toMatchObject(failure);
  await expect(core.discard(readOnly, 7, 50)).rejects.toMatchObject(failure);
});

testNative('offsets and descriptors that are none are refused', async () => {
  using scratch = new Scratch();
  const core = await loadCore('native');
  const fd = scratch.create('file');
  const refused = { code: 'BAD_ARGUMENT' };
  await expect(core.zeroRange(fd, -1, 5, true)).rejects.toMatchObject(refused);
  await expect(core.discard(fd, 0, NaN)).rejects.toMatchObject(refused);
  await expect(core.discard(-1, 0, 1)).rejects.toMatchObject(refused);
  expect(() => core.dataRanges(fd, 2 ** 53, 1)).toThrow(expect.objectContaining(refused));
  expect(() => core.lock(-1, 'shared')).toThrow(expect.objectContaining(refused));
});

/** A loop device over a file of the scratch directory. */
class LoopDevice implements Disposable {
  readonly path: string;

  constructor(backingFile: string, ...options: string[]) {
    this.path = execFileSync('losetup', ['--show', '-f', ...options, backingFile], {
      encoding: 'utf8',
    }).trim();
  }

  [Symbol.dispose](): void {
    execFileSync('losetup', ['-d', this.path]);
  }
}

const testLoop = needs('root', 'native core', 'losetup', '/dev/loop-control');

async function eachCore(body: (core: Core) => Promise<void> | void): Promise<void> {
  for (const name of ['native', 'portable'] as const) await body(await loadCore(name));
}

testLoop('geometry of a loop device', async () => {
  await eachCore((core) => {
    using scratch = new Scratch();
    scratch.create('backing', new Uint8Array(1 * MiB + 4096));
    using loop = new LoopDevice(scratch.path('backing'), '--sector-size', '4096');
    const fd = scratch.open(loop.path, 'r');
    expect(core.blockGeometry(fd, loop.path)).toEqual({
      sizeBytes: 1 * MiB + 4096,
      logicalSectorBytes: 4096,
    });
    scratch.close(fd);
  });
});

testLoop('zeroing and discarding on a loop device', async () => {
  using scratch = new Scratch();
  const core = await loadCore('native');
  scratch.create('backing', new Uint8Array(MiB).fill(1));
  using loop = new LoopDevice(scratch.path('backing'));
  const fd = scratch.open(loop.path, 'r+');
  expect(await core.zeroRange(fd, 4096, 8192, true)).toBe(true);
  expect(await core.zeroRange(fd, 100, 5, true)).toBe(false);
  expect(await core.discard(fd, 65536, 65536)).toBe(true);
  const job = copyJob({ source: { fd }, sink: { bytes: sharedBytes(MiB) }, deviceSizeBytes: MiB });
  core.copy(job);
  const zeros = [...job.states.keys()].filter((block) => job.states[block] === 1);
  expect(zeros.slice(0, 2)).toEqual([1, 2]);
  expect(zeros.every((block) => block === 1 || block === 2 || (block >= 16 && block < 32))).toBe(true);
  scratch.close(fd);
});

testLoop('a read error of a block device names the block that is bad', async () => {
  await eachCore((core) => {
    using scratch = new Scratch();
    scratch.create('backing', new Uint8Array(MiB).fill(1));
    using loop = new LoopDevice(scratch.path('backing'));
    const fd = scratch.open(loop.path, 'r');
    // The device keeps its size, and what lies past the end of its file cannot be read.
    truncateSync(scratch.path('backing'), 40 * 4096);
    const job = copyJob({ source: { fd }, sink: { bytes: sharedBytes(MiB) }, deviceSizeBytes: MiB });
    expect(() => core.copy(job)).toThrow(
      expect.objectContaining({ code: 'SOURCE_READ_FAILED', offsetBytes: 40 * 4096, lengthBytes: 4096 }),
    );
    scratch.close(fd);
  });
});

test('the portable core changes nothing where it says that it cannot', async () => {
  using scratch = new Scratch();
  const core = await loadCore('portable');
  const fd = scratch.create('file', new Uint8Array(5000).fill(1));
  expect(await core.discard(fd, 0, 5000)).toBe(false);
  expect(nonZero(scratch.content('file'))).toEqual([0, 5000]);
});
