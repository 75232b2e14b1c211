import { ftruncateSync, readSync, writeSync } from 'node:fs';
import { expect } from 'vitest';
import { BlockState, type CopyJob, type CoreName } from '#src/core/core';
import { SharedBitmap } from '#src/core/bitmap';
import { Random } from '#src/runtime/random';
import { MiB } from '#src/runtime/sizes';
import { testSeed } from '../support/seed.js';
import { describeCores } from './cores.js';
import { blockRange, copiedBlock, copyJob } from './jobs.js';
import { copyOnThread, hasReachedEnd, spinUntil, spinUntilRead, type Outcome } from './job-thread.js';
import { Scratch } from './scratch.js';

const BLOCK = 4096;
const BLOCKS = 2048;

/** A device that a job copies on one thread while the test writes to it on another. */
class LiveDevice {
  readonly scratch = new Scratch();
  readonly preserved = new SharedBitmap(BLOCKS);
  readonly copied = new SharedBitmap(BLOCKS);
  /** The content as of the cut. */
  readonly atCut = new Uint8Array(BLOCKS * BLOCK);
  readonly preImages = new Map<number, Uint8Array>();
  readonly fd: number;
  readonly job: CopyJob;
  #front = 0;

  /** @param parts what the job has besides a source, a sink and a size. */
  constructor(random: Random, parts: (device: LiveDevice) => Partial<CopyJob>) {
    this.fd = this.scratch.create('device');
    ftruncateSync(this.fd, this.atCut.length);
    // Half of the runs of blocks are holes, but not the first one.
    for (let block = 0; block < BLOCKS;) {
      const end = Math.min(BLOCKS, block + 1 + random.below(200));
      const piece = this.atCut.subarray(block * BLOCK, end * BLOCK);
      if (block === 0 || random.chance(0.5)) {
        for (let i = 0; i < piece.length; i++) piece[i] = (block + (i >>> 9)) % 251;
        writeSync(this.fd, piece, 0, piece.length, block * BLOCK);
      }
      block = end;
    }
    this.job = copyJob({
      source: { fd: this.fd },
      sink: { fd: this.scratch.create('image') },
      deviceSizeBytes: this.atCut.length,
      ...parts(this),
    });
  }

  /** The first block that is neither copied nor preserved: where the job is. BLOCKS when there is none. */
  front(): number {
    while (this.#front < BLOCKS && (this.copied.has(this.#front) || this.preserved.has(this.#front)))
      this.#front++;
    return this.#front;
  }

  /** Overwrites a block, saving what it holds first if copy-before-write asks for it. */
  writeWithCopyBeforeWrite(block: number): void {
    if (!this.copied.has(block) && !this.preserved.has(block)) {
      const preImage = new Uint8Array(BLOCK);
      readSync(this.fd, preImage, 0, BLOCK, block * BLOCK);
      this.preImages.set(block, preImage);
      this.preserved.add(block);
    }
    this.write(block);
  }

  /** Overwrites a block with what no block held at the cut. */
  write(block: number): void {
    writeSync(this.fd, newer, 0, BLOCK, block * BLOCK);
  }

  /** The blocks of which something other than the content as of the cut was copied or saved. */
  wrongBlocks(): number[] {
    const image = this.scratch.content('image');
    return [...this.job.states.keys()].filter((block) => {
      const state = this.job.states[block];
      if (state === BlockState.Skipped) return false;
      const { start, end } = blockRange(this.job, block);
      const actual =
        state === BlockState.Preserved ? this.preImages.get(block) : copiedBlock(this.job, image, block);
      return actual === undefined || Buffer.compare(actual, this.atCut.subarray(start, end)) !== 0;
    });
  }

  [Symbol.dispose](): void {
    this.scratch[Symbol.dispose]();
  }
}

const newer = new Uint8Array(BLOCK).fill(0xff);

/** A copy of a hole or of data, while each block around the place where the job reads is overwritten. */
async function copyUnderWrites(core: CoreName, random: Random): Promise<void> {
  using device = new LiveDevice(random, ({ preserved, copied }) => ({
    preserved: preserved.words,
    copied: copied.words,
  }));
  const outcome = copyOnThread(core, device.job);
  spinUntil(() => {
    // Two thirds of the blocks are left for the job to copy. Some of the others are overwritten around the run that is
    // being read, some once the job says that it needs them no more.
    const isAhead = random.chance(0.5);
    const block = isAhead ? device.front() - 8 + random.below(80) : random.below(BLOCKS);
    const isMine = block >= 0 && block < BLOCKS && block % 3 === 0;
    if (isMine && (isAhead || device.copied.has(block))) device.writeWithCopyBeforeWrite(block);
    return hasReachedEnd(device.job);
  }, 'the job to reach the end');
  expect((await outcome).result?.end).toBe('done');
  expect(device.job.states.includes(BlockState.Skipped)).toBe(false);
  expect(device.job.states.includes(BlockState.Preserved)).toBe(true);
  const wrongMarks = [...device.job.states.keys()].filter(
    (block) => device.copied.has(block) === (device.job.states[block] === BlockState.Preserved),
  );
  expect(wrongMarks).toEqual([]);
  expect(device.wrongBlocks()).toEqual([]);
}

/** A copy whose barrier comes down on the way; answers how it ended. */
async function copyUnderFallingBarrier(core: CoreName, random: Random): Promise<Outcome> {
  const barrier = new Int32Array(new SharedArrayBuffer(4)).fill(1);
  using device = new LiveDevice(random, ({ copied }) => ({ barrier, copied: copied.words }));
  const outcome = copyOnThread(core, device.job);
  spinUntilRead(device.job, random.below(2 * MiB));
  Atomics.store(barrier, 0, 0);
  const front = device.front();
  for (let block = front; block < Math.min(BLOCKS, front + 300); block++) device.write(block);
  const ended = await outcome;
  expect(device.wrongBlocks()).toEqual([]);
  return ended;
}

/** A copy of the first half of a source that is cut off at its end meanwhile; answers how it ended. */
async function copyWhileShrinking(core: CoreName, random: Random): Promise<Outcome> {
  using device = new LiveDevice(random, () => ({ blockCount: BLOCKS / 2 }));
  const outcome = copyOnThread(core, device.job);
  spinUntilRead(device.job, 0);
  ftruncateSync(device.fd, 2000 * BLOCK);
  return await outcome;
}

describeCores((testCore, name) => {
  testCore('never takes a block that was overwritten while it was read', async () => {
    const random = new Random(testSeed());
    for (let round = 0; round < 8; round++) await copyUnderWrites(name, random.fork());
  });

  testCore('takes nothing that was read after the barrier came down', async () => {
    const random = new Random(testSeed());
    const ends: (string | undefined)[] = [];
    for (let round = 0; round < 8; round++) {
      const { result } = await copyUnderFallingBarrier(name, random.fork());
      ends.push(result?.end);
    }
    // Some may have been done before the barrier fell.
    expect(ends).toContain('barrier-lost');
  });

  testCore('notices a source that shrinks on the way, also where it reads nothing', async () => {
    const random = new Random(testSeed());
    let failed: Outcome['failed'];
    // The truncation may come too late, and then the copy is good.
    for (let attempt = 0; attempt < 20 && !failed; attempt++) {
      const outcome = await copyWhileShrinking(name, random.fork());
      if (outcome.result) expect(outcome.result.end).toBe('done');
      failed = outcome.failed;
    }
    expect(failed).toMatchObject({
      code: 'SOURCE_SHRUNK',
      offsetBytes: 2000 * BLOCK,
      lengthBytes: 48 * BLOCK,
    });
  });

  testCore('stops soon after it is cancelled from another thread', async () => {
    using scratch = new Scratch();
    const deviceSizeBytes = 2 ** 40;
    const job = copyJob({
      // Enough to read for hours.
      source: { fd: scratch.open('/dev/zero', 'r') },
      sink: { fd: scratch.create('image') },
      deviceSizeBytes,
      blockSizeBytes: 4 * MiB,
    });
    const outcome = copyOnThread(name, job);
    spinUntilRead(job, 8 * MiB);
    Atomics.store(job.cancel, 0, 1);
    expect((await outcome).result).toEqual({ end: 'cancelled', storedBytes: 0 });
    expect(Number(job.progress[0])).toBeLessThan(deviceSizeBytes);
    expect([...job.states.subarray(0, 2)]).toEqual([BlockState.Zero, BlockState.Zero]);
  });
});
