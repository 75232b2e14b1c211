import { ftruncateSync, writeSync } from 'node:fs';
import { expect } from 'vitest';
import { BlockState, type CopyJob, type Core } from '#src/core/core';
import { SharedBitmap } from '#src/core/bitmap';
import { Random } from '#src/runtime/random';
import { KiB } from '#src/runtime/sizes';
import { testSeed } from '../support/seed.js';
import { describeCores } from './cores.js';
import { blockRange, copiedBlock, copyJob, reportedHash, restoreJob, sharedBytes } from './jobs.js';
import { Scratch } from './scratch.js';

/** A device of any size, mostly holes, with data that begins and ends anywhere. */
function randomDevice(random: Random, scratch: Scratch): { fd: number; content: Uint8Array } {
  const content = new Uint8Array(1 + random.below(random.pick([100, 20_000, 3_000_000])));
  const fd = scratch.create('device');
  ftruncateSync(fd, content.length);
  for (let writes = random.below(12); writes > 0; writes--) {
    const start = random.below(content.length);
    const piece = content.subarray(start, start + 1 + random.below(200_000));
    // Zeros that are written are data to the file system and zeros to us.
    if (random.chance(0.3)) piece.fill(0);
    else for (let i = 0; i < piece.length; i++) piece[i] = (random.seed + i * 31) >>> 3;
    writeSync(fd, piece, 0, piece.length, start);
  }
  return { fd, content };
}

function randomBitmap(random: Random, bitCount: number): SharedBitmap | undefined {
  if (random.chance(0.4)) return undefined;
  const bitmap = new SharedBitmap(bitCount);
  for (let runs = random.below(8); runs > 0; runs--) {
    const from = random.below(bitCount);
    bitmap.addRange(from, Math.min(bitCount, from + 1 + random.below(1 + bitCount / 4)));
  }
  return bitmap;
}

/** A job about some blocks of a device, from and to anywhere. */
function randomJob(random: Random, scratch: Scratch, device: { fd: number; content: Uint8Array }): CopyJob {
  const { fd, content } = device;
  const blockSizeBytes = random.pick([4 * KiB, 8 * KiB, 64 * KiB, 1024 * KiB]);
  const onDevice = Math.ceil(content.length / blockSizeBytes);
  const firstBlock = random.chance(0.5) ? 0 : random.below(onDevice);
  const blockCount = random.chance(0.5) ? onDevice - firstBlock : random.below(onDevice - firstBlock + 1);
  const range = content.subarray(firstBlock * blockSizeBytes, (firstBlock + blockCount) * blockSizeBytes);
  const job = copyJob({
    source: random.chance(0.7) ? { fd } : { bytes: range },
    sink: random.chance(0.7) ? { fd: scratch.create('image') } : { bytes: sharedBytes(range.length) },
    deviceSizeBytes: content.length,
    blockSizeBytes,
    firstBlock,
    blockCount,
    algorithm: random.pick(['xxh64', 'blake3']),
    selected: randomBitmap(random, onDevice)?.words,
    preserved: randomBitmap(random, onDevice)?.words,
    copied: new SharedBitmap(onDevice).words,
  });
  job.cursor[0] = BigInt(4096 * random.below(5));
  return job;
}

/** What the job must make of block `index`, without any core. */
function expectedState(job: CopyJob, content: Uint8Array, index: number): number {
  const block = job.firstBlock + index;
  const { start, end } = blockRange(job, index);
  const has = (words: CopyJob['selected']): boolean =>
    words !== undefined && new SharedBitmap(0, words).has(block);
  if (job.selected && !has(job.selected)) return BlockState.Skipped;
  if (has(job.preserved)) return BlockState.Preserved;
  return content.subarray(start, end).some((byte) => byte !== 0) ? BlockState.Stored : BlockState.Zero;
}

function imageOf(job: CopyJob, scratch: Scratch): Uint8Array {
  return 'fd' in job.sink ? scratch.content('image') : job.sink.bytes;
}

/** Checks all that a finished job reports against the device's content. */
function judge(core: Core, job: CopyJob, storedBytes: number, content: Uint8Array, image: Uint8Array): void {
  const copied = new SharedBitmap(0, job.copied);
  const taken: { start: number; end: number }[] = [];
  for (let i = 0; i < job.blockCount; i++) {
    const { start, end } = blockRange(job, i);
    const expected = content.subarray(start, end);
    const state = expectedState(job, content, i);
    const decided = state === BlockState.Zero || state === BlockState.Stored;
    expect(job.states[i], `state of block ${i}`).toBe(state);
    expect(copied.has(job.firstBlock + i), `copied bit of block ${i}`).toBe(decided);
    if (!decided) continue;
    const actual = copiedBlock(job, image, i) ?? new Uint8Array();
    expect(Buffer.compare(actual, expected), `content of block ${i}`).toBe(0);
    if (state === BlockState.Zero) continue;
    expect(reportedHash(job, i)).toBe(Buffer.from(core.hash(job.algorithm, expected)).toString('hex'));
    const offset = job.offsets[i] ?? NaN;
    taken.push({ start: offset, end: offset + expected.length });
  }
  taken.sort((one, other) => one.start - other.start);
  taken.forEach(({ start }, i) => expect(start).toBeGreaterThanOrEqual(taken[i - 1]?.end ?? 0));
  expect(storedBytes).toBe(taken.reduce((sum, { start, end }) => sum + end - start, 0));
  if ('fd' in job.sink) expect(Number(job.cursor[0])).toBeGreaterThanOrEqual(taken.at(-1)?.end ?? 0);
}

/** Restores a job's blocks over garbage: what was stored or zero is there, and nothing else was touched. */
function restoreAndCompare(
  core: Core,
  job: CopyJob,
  content: Uint8Array,
  image: Uint8Array,
  scratch: Scratch,
): void {
  job.states.forEach((state, i) => {
    if (state === BlockState.Preserved) job.states[i] = BlockState.Skipped;
  });
  const target = new Uint8Array(content.length).fill(0xa5);
  const restored = restoreJob(job, {
    imageFd: scratch.create('image copy', image),
    targetFd: scratch.create('target', target),
    zeroTarget: true,
  });
  expect(core.restore(restored)).toBe('done');
  expect(restored.faults.every((fault) => fault === 0)).toBe(true);
  for (let i = 0; i < job.blockCount; i++) {
    const { start, end } = blockRange(job, i);
    if (job.states[i] !== BlockState.Skipped) target.set(content.subarray(start, end), start);
  }
  expect(Buffer.compare(scratch.content('target'), target), 'the restored device').toBe(0);
}

describeCores((testCore) => {
  testCore('copies and restores random sparse devices as a plain model says', (core) => {
    const random = new Random(testSeed());
    for (let round = 0; round < 80; round++) {
      using scratch = new Scratch();
      const device = randomDevice(random.fork(), scratch);
      const job = randomJob(random, scratch, device);
      const { end, storedBytes } = core.copy(job);
      expect(end).toBe('done');
      const image = imageOf(job, scratch);
      judge(core, job, storedBytes, device.content, image);
      restoreAndCompare(core, job, device.content, image, scratch);
    }
  });
});
