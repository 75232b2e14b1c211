import { ftruncateSync, mkdirSync, writeSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';
import { BlockState, type CopyJob, type Core } from '#src/core/core';
import { SharedBitmap } from '#src/core/bitmap';
import { MiB } from '#src/runtime/sizes';
import { runProcess } from '../support/process.js';
import { describeCores } from './cores.js';
import { bitmapOf, copiedBlock, copyJob, reportedHash, sharedBytes } from './jobs.js';
import { Scratch } from './scratch.js';

const BLOCK = 4096;
const { Skipped, Zero, Stored, Preserved } = BlockState;

/** Blocks of a device, each filled with one byte; the last one may be shortened. */
function blocksOf(fills: readonly number[], lastLength = BLOCK): Uint8Array {
  const bytes = new Uint8Array((fills.length - 1) * BLOCK + lastLength);
  fills.forEach((fill, i) => bytes.fill(fill, i * BLOCK, (i + 1) * BLOCK));
  return bytes;
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

describeCores((testCore, name) => {
  testCore('stores what is not zero, with its hash, and nothing else', (core) => {
    using scratch = new Scratch();
    const content = blocksOf([1, 0, 2, 3, 0]);
    const job = copyJob({
      source: { fd: scratch.create('device', content) },
      sink: { fd: scratch.create('image') },
      deviceSizeBytes: content.length,
    });
    expect(core.copy(job)).toEqual({ end: 'done', storedBytes: 3 * BLOCK });
    expect([...job.states]).toEqual([Stored, Zero, Stored, Stored, Zero]);
    expect(hex(scratch.content('image'))).toBe(hex(blocksOf([1, 2, 3])));
    expect([job.offsets[0], job.offsets[2], job.offsets[3]]).toEqual([0, BLOCK, 2 * BLOCK]);
    expect(reportedHash(job, 2)).toBe(hex(core.hash('xxh64', new Uint8Array(BLOCK).fill(2))));
    expect(job.cursor[0]).toBe(BigInt(3 * BLOCK));
    expect(job.progress[0]).toBe(BigInt(content.length));
  });

  testCore('appends where the cursor is, in whole multiples of 4096 bytes', (core) => {
    using scratch = new Scratch();
    const content = blocksOf([1, 2], 1);
    const job = copyJob({
      source: { fd: scratch.create('device', content) },
      sink: { fd: scratch.create('image', new Uint8Array(BLOCK).fill(9)) },
      deviceSizeBytes: content.length,
      algorithm: 'blake3',
    });
    job.cursor[0] = BigInt(BLOCK);
    expect(core.copy(job)).toEqual({ end: 'done', storedBytes: BLOCK + 1 });
    expect([...job.offsets]).toEqual([BLOCK, 2 * BLOCK]);
    expect(job.cursor[0]).toBe(BigInt(3 * BLOCK));
    expect(hex(scratch.content('image'))).toBe(hex(blocksOf([9, 1, 2], 1)));
    expect(reportedHash(job, 1)).toBe(hex(core.hash('blake3', Uint8Array.of(2))));
  });

  testCore('takes bytes and gives bytes, from a block in the middle of the device', (core) => {
    const bytes = blocksOf([0, 5, 6], 100);
    const source = sharedBytes(bytes.length);
    source.set(bytes);
    const sink = sharedBytes(bytes.length + 7).fill(0xee);
    const job = copyJob({
      source: { bytes: source },
      sink: { bytes: sink },
      deviceSizeBytes: 7 * BLOCK + 100,
      firstBlock: 5,
    });
    expect(core.copy(job)).toEqual({ end: 'done', storedBytes: BLOCK + 100 });
    expect([...job.states]).toEqual([Zero, Stored, Stored]);
    expect([...job.offsets]).toEqual([0, 0, BLOCK]);
    expect(hex(sink.subarray(0, BLOCK + 100))).toBe(hex(bytes.subarray(BLOCK)));
    expect(sink.subarray(BLOCK + 100).every((byte) => byte === 0xee)).toBe(true);
    expect(job.cursor[0]).toBe(0n);
    expect([...job.progress]).toEqual([BigInt(bytes.length), BigInt(bytes.length)]);
  });

  testCore('copies a block of 4 MiB, and devices of many segments', (core) => {
    using scratch = new Scratch();
    const content = new Uint8Array(9 * MiB + 11).map((_, i) => (i >>> 9) * 37);
    for (const blockSizeBytes of [4 * MiB, BLOCK]) {
      const job = copyJob({
        source: { fd: scratch.create('device', content) },
        sink: { fd: scratch.create('image') },
        deviceSizeBytes: content.length,
        blockSizeBytes,
      });
      core.copy(job);
      const image = scratch.content('image');
      const blocks = Array.from(job.states, (_, i) => copiedBlock(job, image, i) ?? new Uint8Array());
      expect(Buffer.concat(blocks).equals(content)).toBe(true);
    }
  });

  testCore('copies a device of no bytes and a job of no blocks', (core) => {
    using scratch = new Scratch();
    const empty = copyJob({
      source: { fd: scratch.create('empty') },
      sink: { fd: scratch.create('image') },
      deviceSizeBytes: 0,
    });
    expect(core.copy(empty)).toEqual({ end: 'done', storedBytes: 0 });
    const none = copyJob({
      source: { bytes: new Uint8Array() },
      sink: { bytes: new Uint8Array() },
      deviceSizeBytes: 2 * BLOCK,
      firstBlock: 2,
    });
    expect(core.copy(none)).toEqual({ end: 'done', storedBytes: 0 });
    expect(none.cursor[0]).toBe(0n);
  });

  testCore('finds the data of a sparse file, also where a hole ends inside a block', (core) => {
    using scratch = new Scratch();
    const fd = scratch.create('device');
    const deviceSizeBytes = 8 * MiB + 3;
    ftruncateSync(fd, deviceSizeBytes);
    const places = [0, 1 * MiB + 5000, 4 * MiB - 1, 8 * MiB + 2];
    for (const place of places) writeSync(fd, Uint8Array.of(1), 0, 1, place);
    const blockSizeBytes = 64 * 1024;
    const image = scratch.create('image');
    const job = copyJob({ source: { fd }, sink: { fd: image }, deviceSizeBytes, blockSizeBytes });
    core.copy(job);
    const stored = new Set(places.map((place) => Math.floor(place / blockSizeBytes)));
    expect([...job.states]).toEqual(Array.from(job.states, (_, i) => (stored.has(i) ? Stored : Zero)));
    expect(job.progress[0]).toBe(BigInt(deviceSizeBytes));
    // Only the native core knows of holes.
    if (name === 'native') expect(Number(job.progress[1])).toBeLessThan(8 * blockSizeBytes);
  });

  testCore('leaves blocks alone that are not selected', (core) => {
    using scratch = new Scratch();
    const fills = Array.from({ length: 70 }, (_, i) => (i % 5 === 0 ? 0 : i));
    const content = blocksOf(fills);
    const selected = new Set([0, 1, 31, 32, 33, 63, 64, 69]);
    const copied = new SharedBitmap(fills.length);
    const job = copyJob({
      source: { fd: scratch.create('device', content) },
      sink: { fd: scratch.create('image') },
      deviceSizeBytes: content.length,
      selected: bitmapOf(fills.length, selected).words,
      copied: copied.words,
      // What an earlier job left behind.
      states: sharedBytes(fills.length).fill(Stored),
    });
    core.copy(job);
    const expected = fills.map((fill, i) => (!selected.has(i) ? Skipped : fill === 0 ? Zero : Stored));
    expect([...job.states]).toEqual(expected);
    expect(fills.map((_, i) => copied.has(i))).toEqual(fills.map((_, i) => selected.has(i)));
    expect(job.progress[0]).toBe(BigInt(selected.size * BLOCK));
  });

  testCore('reports preserved blocks without copying them, holes and handed bytes included', (core) => {
    using scratch = new Scratch();
    const content = blocksOf([1, 2, 0, 3, 0]);
    const fd = scratch.create('device', content);
    ftruncateSync(fd, 4 * BLOCK);
    ftruncateSync(fd, 5 * BLOCK);
    for (const source of [{ fd }, { bytes: content }]) {
      const copied = new SharedBitmap(5);
      const job = copyJob({
        source,
        sink: { bytes: sharedBytes(content.length) },
        deviceSizeBytes: content.length,
        preserved: bitmapOf(5, [1, 2, 4]).words,
        copied: copied.words,
      });
      expect(core.copy(job)).toEqual({ end: 'done', storedBytes: 2 * BLOCK });
      expect([...job.states]).toEqual([Stored, Preserved, Preserved, Stored, Preserved]);
      expect([0, 1, 2, 3, 4].filter((block) => copied.has(block))).toEqual([0, 3]);
      expect(job.progress[0]).toBe(BigInt(2 * BLOCK));
    }
  });

  testCore('decides nothing once the barrier is down, and goes on while it is up', (core) => {
    using scratch = new Scratch();
    const content = blocksOf([1, 0, 2]);
    const fd = scratch.create('device', content);
    const barrier = new Int32Array(new SharedArrayBuffer(4));
    const copied = new SharedBitmap(3);
    const parts = {
      source: { fd },
      sink: { bytes: sharedBytes(content.length) },
      deviceSizeBytes: content.length,
      barrier,
      copied: copied.words,
    };
    const lost = copyJob(parts);
    expect(core.copy(lost)).toEqual({ end: 'barrier-lost', storedBytes: 0 });
    expect([...lost.states]).toEqual([Skipped, Skipped, Skipped]);
    expect(copied.count()).toBe(0);
    barrier[0] = -1;
    const held = copyJob(parts);
    expect(core.copy(held).end).toBe('done');
    expect([...held.states]).toEqual([Stored, Zero, Stored]);
  });

  testCore('stops before the first block when it was cancelled', (core) => {
    const job = copyJob({
      source: { bytes: blocksOf([1]) },
      sink: { bytes: sharedBytes(BLOCK) },
      deviceSizeBytes: BLOCK,
    });
    job.cancel[0] = 1;
    expect(core.copy(job)).toEqual({ end: 'cancelled', storedBytes: 0 });
    expect([...job.states]).toEqual([Skipped]);
  });

  testCore('uses the capacity to its last byte and not one more', (core) => {
    using scratch = new Scratch();
    const image = scratch.create('image');
    const copyWith = (capacityBytes: number): CopyJob => {
      const content = blocksOf([1, 2, 3]);
      const sink = { fd: image };
      const job = copyJob({
        source: { bytes: content },
        sink,
        deviceSizeBytes: content.length,
        capacityBytes,
      });
      job.cursor[0] = BigInt(BLOCK);
      core.copy(job);
      return job;
    };
    expect([...copyWith(4 * BLOCK).offsets]).toEqual([BLOCK, 2 * BLOCK, 3 * BLOCK]);
    expect(() => copyWith(4 * BLOCK - 1)).toThrow(
      expect.objectContaining({ code: 'TARGET_FULL', offsetBytes: BLOCK, lengthBytes: 3 * BLOCK }),
    );
  });

  testCore('a cursor that makes no sense is a full target, not a wild write', (core) => {
    using scratch = new Scratch();
    const image = scratch.create('image');
    for (const cursor of [-4096n, -(2n ** 63n), 2n ** 63n - 1n]) {
      const job = copyJob({ source: { bytes: blocksOf([1]) }, sink: { fd: image }, deviceSizeBytes: BLOCK });
      job.cursor[0] = cursor;
      expect(() => core.copy(job)).toThrow(expect.objectContaining({ code: 'TARGET_FULL' }));
    }
    expect(scratch.content('image').length).toBe(0);
  });

  testCore('a medium without space is a full target', (core) => {
    using scratch = new Scratch();
    const job = copyJob({
      source: { bytes: blocksOf([1, 0, 2]) },
      sink: { fd: scratch.open('/dev/full', 'r+') },
      deviceSizeBytes: 3 * BLOCK,
    });
    job.cursor[0] = 8192n;
    expect(() => core.copy(job)).toThrow(
      expect.objectContaining({
        code: 'TARGET_FULL',
        offsetBytes: 8192,
        message: expect.stringMatching(/no space/i),
      }),
    );
    expect([...job.states]).toEqual([Skipped, Zero, Skipped]);
  });

  testCore('a limit on the size of files is a full target', async () => {
    using scratch = new Scratch();
    const { stdout } = await runProcess('bash', [
      '-c',
      'ulimit -f 64; exec "$0" "$@"',
      process.execPath,
      fileURLToPath(new URL('limited-copy.mjs', import.meta.url)),
      name,
      scratch.path('image'),
    ]);
    expect(JSON.parse(stdout)).toMatchObject({ code: 'TARGET_FULL' });
  });

  testCore('an image that cannot be written is a failed write', (core) => {
    using scratch = new Scratch();
    scratch.create('image');
    const job = copyJob({
      source: { bytes: blocksOf([1]) },
      sink: { fd: scratch.open(scratch.path('image'), 'r') },
      deviceSizeBytes: BLOCK,
    });
    expect(() => core.copy(job)).toThrow(
      expect.objectContaining({ code: 'TARGET_WRITE_FAILED', offsetBytes: 0, lengthBytes: BLOCK }),
    );
  });

  testCore('a source that cannot be read names the first block', (core) => {
    using scratch = new Scratch();
    mkdirSync(scratch.path('directory'));
    scratch.create('device', blocksOf([1, 2, 3, 4]));
    const bad = [scratch.open(scratch.path('directory'), 'r'), scratch.open(scratch.path('device'), 'a')];
    for (const fd of bad) {
      const job = copyJob({
        source: { fd },
        sink: { bytes: sharedBytes(3 * BLOCK) },
        deviceSizeBytes: 4 * BLOCK,
        firstBlock: 1,
      });
      expect(() => core.copy(job)).toThrow(
        expect.objectContaining({ code: 'SOURCE_READ_FAILED', offsetBytes: BLOCK, lengthBytes: BLOCK }),
      );
      expect([...job.states]).toEqual([Skipped, Skipped, Skipped]);
    }
  });

  testCore('a descriptor that is not open is a source that cannot be read', (core) => {
    const sink = { bytes: sharedBytes(BLOCK) };
    const job = copyJob({ source: { fd: 900_000 }, sink, deviceSizeBytes: BLOCK });
    expect(() => core.copy(job)).toThrow(expect.objectContaining({ code: 'SOURCE_READ_FAILED' }));
  });

  testCore('a source shorter than the device is never taken for zeros', (core) => {
    using scratch = new Scratch();
    const fd = scratch.create('device', blocksOf([1, 2, 3]));
    const shrunkTo = (sizeBytes: number, core: Core): (() => unknown) => {
      ftruncateSync(fd, sizeBytes);
      // The blocks of this job are all there; the device is shorter all the same.
      const sink = { bytes: sharedBytes(BLOCK) };
      const job = copyJob({ source: { fd }, sink, deviceSizeBytes: 3 * BLOCK, blockCount: 1 });
      return () => core.copy(job);
    };
    for (const sizeBytes of [3 * BLOCK - 1, BLOCK, 0]) {
      expect(shrunkTo(sizeBytes, core)).toThrow(
        expect.objectContaining({
          code: 'SOURCE_SHRUNK',
          offsetBytes: sizeBytes,
          lengthBytes: 3 * BLOCK - sizeBytes,
        }),
      );
    }
  });

  testCore('the end of something without a size is the end of the source', (core) => {
    using scratch = new Scratch();
    const job = copyJob({
      source: { fd: scratch.open('/dev/null', 'r') },
      sink: { bytes: sharedBytes(2 * BLOCK) },
      deviceSizeBytes: 2 * BLOCK,
    });
    expect(() => core.copy(job)).toThrow(expect.objectContaining({ code: 'SOURCE_SHRUNK', offsetBytes: 0 }));
  });
});
