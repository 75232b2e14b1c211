import { expect } from 'vitest';
import type { CopyJob, HashAlgorithm, RestoreJob } from '#src/core/core';
import { describeCores } from './cores.js';
import { copyJob, restoreJob, sharedBytes } from './jobs.js';
import { Scratch } from './scratch.js';

const BLOCK = 4096;
const COUNT = 40;
const SIZE = COUNT * BLOCK - 1;

const words = (count: number): Int32Array<SharedArrayBuffer> =>
  new Int32Array(new SharedArrayBuffer(count * 4));

/** Wrong in both kinds of job. */
const wrongInBoth: readonly Partial<CopyJob & RestoreJob>[] = [
  { deviceSizeBytes: -1 },
  { deviceSizeBytes: NaN },
  { deviceSizeBytes: 2 ** 53 },
  { deviceSizeBytes: SIZE + 0.5 },
  { deviceSizeBytes: SIZE - BLOCK },
  { blockSizeBytes: 0 },
  { blockSizeBytes: -4096 },
  { blockSizeBytes: 2048 },
  { blockSizeBytes: 4097 },
  { blockSizeBytes: 6144 },
  { blockSizeBytes: 8 * 1024 * 1024 },
  { blockSizeBytes: Infinity },
  { firstBlock: 1 },
  { firstBlock: -1 },
  { firstBlock: 0.5 },
  { firstBlock: 2 ** 53 - 1 },
  { blockCount: COUNT + 1 },
  { blockCount: COUNT - 1 },
  { blockCount: -1 },
  { blockCount: NaN },
  { blockCount: 2 ** 53 - 1 },
  { algorithm: 'md5' as HashAlgorithm },
  { algorithm: 'toString' as HashAlgorithm },
  { algorithm: 'blake3' },
  { cancel: words(0) },
  { progress: new BigInt64Array(1) },
  { states: sharedBytes(COUNT - 1) },
  { states: sharedBytes(COUNT + 1) },
  { offsets: new Float64Array(COUNT - 1) },
  { hashes: sharedBytes(COUNT * 8 - 1) },
  { hashes: sharedBytes(0) },
];

const wrongInCopies: readonly Partial<CopyJob>[] = [
  { selected: words(1) },
  { preserved: words(1) },
  { copied: words(0) },
  { barrier: words(0) },
  { cursor: new BigInt64Array(0) },
  { source: { fd: -1 } },
  { source: { fd: 1.5 } },
  { source: { fd: 2 ** 31 } },
  { source: { bytes: sharedBytes(SIZE - 1) } },
  { source: { bytes: sharedBytes(SIZE + 1) } },
  { sink: { fd: -1 } },
  { sink: { bytes: sharedBytes(SIZE - 1) } },
  { capacityBytes: -1 },
  { capacityBytes: NaN },
];

const wrongInRestores: readonly Partial<RestoreJob>[] = [
  { imageFd: -1 },
  { targetFd: -1 },
  { targetFd: NaN },
  { faults: sharedBytes(COUNT - 1) },
  { faults: sharedBytes(0) },
  { states: sharedBytes(COUNT).fill(3) },
  { states: sharedBytes(COUNT).fill(255) },
];

describeCores((testCore) => {
  testCore('refuses copy jobs that contradict themselves, before it touches anything', (core) => {
    using scratch = new Scratch();
    const source = { bytes: sharedBytes(SIZE).fill(1) };
    const sink = { fd: scratch.create('image') };
    expect(core.copy(copyJob({ source, sink, deviceSizeBytes: SIZE })).end).toBe('done');
    for (const wrong of [...wrongInBoth, ...wrongInCopies]) {
      const job = { ...copyJob({ source, sink, deviceSizeBytes: SIZE }), ...wrong };
      const before = job.states.slice();
      expect(() => core.copy(job), describeParts(wrong)).toThrow(
        expect.objectContaining({ code: 'BAD_ARGUMENT' }),
      );
      expect(job.states).toEqual(before);
      if (!('cursor' in wrong)) expect(job.cursor[0]).toBe(0n);
    }
  });

  testCore('refuses restore jobs that contradict themselves, before it touches anything', (core) => {
    using scratch = new Scratch();
    const imageFd = scratch.create('image', new Uint8Array(SIZE).fill(1));
    const targetFd = scratch.create('target');
    const sink = { fd: imageFd };
    const copied = copyJob({ source: { bytes: sharedBytes(SIZE).fill(1) }, sink, deviceSizeBytes: SIZE });
    core.copy(copied);
    for (const wrong of [...wrongInBoth, ...wrongInRestores]) {
      const job = { ...restoreJob(copied, { imageFd, targetFd, zeroTarget: true }), ...wrong };
      expect(() => core.restore(job), describeParts(wrong)).toThrow(
        expect.objectContaining({ code: 'BAD_ARGUMENT' }),
      );
    }
    expect(scratch.content('target').length).toBe(0);
    expect(core.restore(restoreJob(copied, { imageFd, targetFd }))).toBe('done');
    expect(scratch.content('target').length).toBe(SIZE);
  });
});

/** A message that names what was wrong without printing whole arrays. */
function describeParts(parts: object): string {
  return Object.entries(parts)
    .map(
      ([name, value]) =>
        `${name}: ${ArrayBuffer.isView(value) ? `${value.byteLength} bytes` : JSON.stringify(value)}`,
    )
    .join(', ');
}
