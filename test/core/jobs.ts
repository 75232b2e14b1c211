import { BlockState, hashLengthBytes, type CopyJob, type RestoreJob } from '#src/core/core';
import { SharedBitmap } from '#src/core/bitmap';

/** What a test says about a copy job; the rest follows from it. */
export type CopyParts = Pick<CopyJob, 'source' | 'sink' | 'deviceSizeBytes'> & Partial<CopyJob>;

/** A job with result arrays of the right sizes: by default all blocks, of 4 KiB, hashed with xxh64. */
export function copyJob(parts: CopyParts): CopyJob {
  const { deviceSizeBytes, blockSizeBytes = 4096, firstBlock = 0, algorithm = 'xxh64' } = parts;
  const blockCount = parts.blockCount ?? Math.ceil(deviceSizeBytes / blockSizeBytes) - firstBlock;
  return {
    blockSizeBytes,
    firstBlock,
    blockCount,
    algorithm,
    cursor: new BigInt64Array(new SharedArrayBuffer(8)),
    capacityBytes: 2 ** 40,
    cancel: new Int32Array(new SharedArrayBuffer(4)),
    progress: new BigInt64Array(new SharedArrayBuffer(16)),
    states: sharedBytes(blockCount),
    offsets: new Float64Array(new SharedArrayBuffer(blockCount * 8)),
    hashes: sharedBytes(blockCount * hashLengthBytes[algorithm]),
    ...parts,
  };
}

/** The job that restores what `copied` stored in the image, with words of its own for progress and cancelling. */
export function restoreJob(
  copied: CopyJob,
  parts: Pick<RestoreJob, 'imageFd'> & Partial<RestoreJob>,
): RestoreJob {
  const { deviceSizeBytes, blockSizeBytes, firstBlock, blockCount, algorithm, states, offsets, hashes } =
    copied;
  return {
    zeroTarget: false,
    deviceSizeBytes,
    blockSizeBytes,
    firstBlock,
    blockCount,
    algorithm,
    states,
    offsets,
    hashes,
    cancel: new Int32Array(new SharedArrayBuffer(4)),
    progress: new BigInt64Array(new SharedArrayBuffer(16)),
    faults: sharedBytes(blockCount),
    ...parts,
  };
}

export function sharedBytes(length: number): Uint8Array<SharedArrayBuffer> {
  return new Uint8Array(new SharedArrayBuffer(length));
}

/** A bitmap with these bits set. */
export function bitmapOf(bitCount: number, bits: Iterable<number>): SharedBitmap {
  const bitmap = new SharedBitmap(bitCount);
  for (const bit of bits) bitmap.add(bit);
  return bitmap;
}

/** Where block `index` of a job is on the device. */
export function blockRange(job: CopyJob | RestoreJob, index: number): { start: number; end: number } {
  const start = (job.firstBlock + index) * job.blockSizeBytes;
  return { start, end: Math.min(start + job.blockSizeBytes, job.deviceSizeBytes) };
}

/** What a job stored for block `index`: bytes of the image, zeros, or undefined if it stored nothing for it. */
export function copiedBlock(job: CopyJob, image: Uint8Array, index: number): Uint8Array | undefined {
  const { start, end } = blockRange(job, index);
  if (job.states[index] === BlockState.Zero) return new Uint8Array(end - start);
  if (job.states[index] !== BlockState.Stored) return undefined;
  const offset = job.offsets[index] ?? NaN;
  return image.subarray(offset, offset + end - start);
}

/** The hash that a job reported for block `index`, in hexadecimal. */
export function reportedHash(job: CopyJob, index: number): string {
  const length = hashLengthBytes[job.algorithm];
  return Buffer.from(job.hashes.subarray(index * length, (index + 1) * length)).toString('hex');
}
