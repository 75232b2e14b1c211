import { ftruncateSync, writeSync } from 'node:fs';
import { expect } from 'vitest';
import { BlockFault, BlockState, type CopyJob, type Core } from '#src/core/core';
import { describeCores } from './cores.js';
import { copyJob, restoreJob } from './jobs.js';
import { Scratch } from './scratch.js';

const BLOCK = 4096;
const { None, Mismatch, Unreadable } = BlockFault;

/** Ten blocks and a bit; blocks 3 and 7 are zero. Each other block is filled with its number plus one. */
function deviceContent(): Uint8Array {
  const content = new Uint8Array(10 * BLOCK + 77);
  for (let block = 0; block <= 10; block++) {
    if (block !== 3 && block !== 7) content.fill(block + 1, block * BLOCK, (block + 1) * BLOCK);
  }
  return content;
}

/** A copy of that device in the file `image`. */
function copied(core: Core, scratch: Scratch): { job: CopyJob; imageFd: number; content: Uint8Array } {
  const content = deviceContent();
  const imageFd = scratch.create('image');
  const job = copyJob({
    source: { bytes: content },
    sink: { fd: imageFd },
    deviceSizeBytes: content.length,
    algorithm: 'blake3',
  });
  core.copy(job);
  return { job, imageFd, content };
}

/** `content` with block `block` as it was before: all 0xa5. */
function withGarbage(content: Uint8Array, ...blocks: number[]): Uint8Array {
  const bytes = content.slice();
  for (const block of blocks) bytes.fill(0xa5, block * BLOCK, (block + 1) * BLOCK);
  return bytes;
}

function flipBit(fd: number, offset: number, content: Uint8Array): void {
  const byte = content[offset] ?? 0;
  writeSync(fd, Uint8Array.of(byte ^ 0x10), 0, 1, offset);
}

function equals(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0;
}

describeCores((testCore, name) => {
  testCore('writes the device over whatever the target held', (core) => {
    using scratch = new Scratch();
    const { job, imageFd, content } = copied(core, scratch);
    const targetFd = scratch.create('target', new Uint8Array(content.length + 5).fill(0xa5));
    const restored = restoreJob(job, { imageFd, targetFd, zeroTarget: true });
    expect(core.restore(restored)).toBe('done');
    const target = scratch.content('target');
    expect(equals(target.subarray(0, content.length), content)).toBe(true);
    expect(target.subarray(content.length).every((byte) => byte === 0xa5)).toBe(true);
    expect([...restored.progress]).toEqual([BigInt(content.length), BigInt(content.length - 2 * BLOCK)]);
  });

  testCore('leaves zeros alone on a target that is known to hold zeros', (core) => {
    using scratch = new Scratch();
    const { job, imageFd, content } = copied(core, scratch);
    const targetFd = scratch.create('target', withGarbage(new Uint8Array(content.length), 3));
    core.restore(restoreJob(job, { imageFd, targetFd }));
    expect(equals(scratch.content('target'), withGarbage(content, 3))).toBe(true);
  });

  testCore('leaves blocks alone that the generation does not hold', (core) => {
    using scratch = new Scratch();
    const { job, imageFd, content } = copied(core, scratch);
    for (const block of [0, 3, 5]) job.states[block] = BlockState.Skipped;
    const targetFd = scratch.create('target', new Uint8Array(content.length).fill(0xa5));
    const restored = restoreJob(job, { imageFd, targetFd, zeroTarget: true });
    core.restore(restored);
    expect(equals(scratch.content('target'), withGarbage(content, 0, 3, 5))).toBe(true);
    expect(restored.progress[0]).toBe(BigInt(content.length - 3 * BLOCK));
  });

  testCore('names each block that does not match its hash, and writes all others', (core) => {
    using scratch = new Scratch();
    const { job, imageFd, content } = copied(core, scratch);
    const bad = [0, 4, 5, 10];
    for (const block of bad) flipBit(imageFd, (job.offsets[block] ?? 0) + 70, scratch.content('image'));
    const targetFd = scratch.create('target', new Uint8Array(content.length).fill(0xa5));
    const restored = restoreJob(job, { imageFd, targetFd, zeroTarget: true });
    expect(core.restore(restored)).toBe('done');
    expect([...restored.faults]).toEqual(
      Array.from({ length: 11 }, (_, block) => (bad.includes(block) ? Mismatch : None)),
    );
    expect(equals(scratch.content('target'), withGarbage(content, ...bad))).toBe(true);
  });

  testCore('a wrong hash is a mismatch in each of its bytes', (core) => {
    using scratch = new Scratch();
    const { job, imageFd } = copied(core, scratch);
    for (let byte = 0; byte < 32; byte++) {
      const place = 5 * 32 + byte;
      job.hashes[place] = (job.hashes[place] ?? 0) ^ 1;
      const restored = restoreJob(job, { imageFd });
      core.restore(restored);
      expect([...restored.faults].indexOf(Mismatch)).toBe(5);
      job.hashes[place] = (job.hashes[place] ?? 0) ^ 1;
    }
  });

  testCore('names the blocks that the image ends before', (core) => {
    using scratch = new Scratch();
    const { job, imageFd } = copied(core, scratch);
    ftruncateSync(imageFd, (job.offsets[8] ?? 0) + 10);
    const restored = restoreJob(job, { imageFd });
    expect(core.restore(restored)).toBe('done');
    expect([...restored.faults]).toEqual([
      ...Array<number>(8).fill(None),
      Unreadable,
      Unreadable,
      Unreadable,
    ]);
  });

  testCore('an offset that makes no sense is an unreadable block', (core) => {
    using scratch = new Scratch();
    const { job, imageFd, content } = copied(core, scratch);
    const offsets = [-1, NaN, Infinity, 2 ** 53, 0.5, 2 ** 52];
    for (const offset of offsets) {
      job.offsets[4] = offset;
      const targetFd = scratch.create('target', new Uint8Array(content.length).fill(0xa5));
      const restored = restoreJob(job, { imageFd, targetFd, zeroTarget: true });
      core.restore(restored);
      expect([...restored.faults].map((fault, block) => [block, fault]).filter(([, fault]) => fault)).toEqual(
        [[4, Unreadable]],
      );
      expect(equals(scratch.content('target'), withGarbage(content, 4))).toBe(true);
    }
  });

  testCore('an image that cannot be read makes every stored block unreadable', (core) => {
    using scratch = new Scratch();
    const { job } = copied(core, scratch);
    const restored = restoreJob(job, { imageFd: scratch.open(scratch.path('image'), 'a') });
    expect(core.restore(restored)).toBe('done');
    const expected = [...job.states].map((state) => (state === BlockState.Stored ? Unreadable : None));
    expect([...restored.faults]).toEqual(expected);
  });

  testCore('checks without a target, forgetting the faults of an earlier job', (core) => {
    using scratch = new Scratch();
    const { job, imageFd, content } = copied(core, scratch);
    const restored = restoreJob(job, { imageFd, zeroTarget: true });
    restored.faults.fill(Mismatch);
    expect(core.restore(restored)).toBe('done');
    expect(restored.faults.every((fault) => fault === None)).toBe(true);
    expect(restored.progress[0]).toBe(BigInt(content.length));
  });

  testCore('reads blocks that share their place in the image, in any order', (core) => {
    using scratch = new Scratch();
    const { job, imageFd, content } = copied(core, scratch);
    const first = { offset: job.offsets[1] ?? 0, hash: job.hashes.slice(32, 64) };
    for (const block of [0, 9]) {
      job.offsets[block] = first.offset;
      job.hashes.set(first.hash, block * 32);
      content.fill(2, block * BLOCK, (block + 1) * BLOCK);
    }
    const targetFd = scratch.create('target', new Uint8Array(content.length));
    const restored = restoreJob(job, { imageFd, targetFd });
    core.restore(restored);
    expect(restored.faults.every((fault) => fault === None)).toBe(true);
    expect(equals(scratch.content('target'), content)).toBe(true);
  });

  testCore('a target without space ends the job', (core) => {
    using scratch = new Scratch();
    const { job, imageFd } = copied(core, scratch);
    for (const zeroTarget of [false, true]) {
      const restored = restoreJob(job, { imageFd, targetFd: scratch.open('/dev/full', 'r+'), zeroTarget });
      expect(() => core.restore(restored)).toThrow(
        expect.objectContaining({ code: 'TARGET_FULL', offsetBytes: 0 }),
      );
    }
  });

  testCore('zeros that cannot be written end the job too', (core) => {
    using scratch = new Scratch();
    const { job, imageFd } = copied(core, scratch);
    job.states.fill(BlockState.Skipped);
    job.states.fill(BlockState.Zero, 2, 5);
    const restored = restoreJob(job, {
      imageFd,
      targetFd: scratch.open('/dev/full', 'r+'),
      zeroTarget: true,
    });
    expect(() => core.restore(restored)).toThrow(
      expect.objectContaining({ code: 'TARGET_FULL', offsetBytes: 2 * BLOCK }),
    );
  });

  testCore('a target that cannot be written ends the job', (core) => {
    using scratch = new Scratch();
    const { job, imageFd, content } = copied(core, scratch);
    scratch.create('target', new Uint8Array(content.length));
    const targetFd = scratch.open(scratch.path('target'), 'r');
    const restored = restoreJob(job, { imageFd, targetFd, zeroTarget: true });
    expect(() => core.restore(restored)).toThrow(
      expect.objectContaining({ code: 'TARGET_WRITE_FAILED', offsetBytes: 0 }),
    );
  });

  testCore('stops before the first block when it was cancelled', (core) => {
    using scratch = new Scratch();
    const { job, imageFd } = copied(core, scratch);
    const targetFd = scratch.create('target');
    const restored = restoreJob(job, { imageFd, targetFd, zeroTarget: true });
    restored.cancel[0] = 7;
    expect(core.restore(restored)).toBe('cancelled');
    expect(scratch.content('target').length).toBe(0);
  });

  testCore('makes holes where the file system can', async (core) => {
    using scratch = new Scratch();
    const { job, imageFd, content } = copied(core, scratch);
    const targetFd = scratch.create('target', new Uint8Array(content.length).fill(0xa5));
    const canMakeHoles = await core.zeroRange(
      scratch.create('probe', new Uint8Array(BLOCK).fill(1)),
      0,
      BLOCK,
      true,
    );
    core.restore(restoreJob(job, { imageFd, targetFd, zeroTarget: true }));
    expect(canMakeHoles).toBe(name === 'native');
    if (canMakeHoles) {
      expect([...core.dataRanges(targetFd, 0, content.length)]).toEqual([
        ...[0, 3 * BLOCK],
        ...[4 * BLOCK, 7 * BLOCK],
        ...[8 * BLOCK, content.length],
      ]);
    }
  });
});
