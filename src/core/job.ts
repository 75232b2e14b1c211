import { CofferdamError } from '../runtime/errors.js';
import { checkedBytes, KiB, MiB } from '../runtime/sizes.js';
import { BlockState, hashLengthBytes, type CopyJob, type HashAlgorithm, type RestoreJob } from './core.js';

/** The blocks of a job, [first, end), and where they are on the device. */
export class JobBlocks {
  readonly first: number;
  readonly end: number;
  /** How many blocks the whole device has. */
  readonly onDevice: number;
  readonly deviceSizeBytes: number;
  readonly #blockSizeBytes: number;

  constructor(job: CopyJob | RestoreJob) {
    this.first = job.firstBlock;
    this.end = job.firstBlock + job.blockCount;
    this.onDevice = Math.ceil(job.deviceSizeBytes / job.blockSizeBytes);
    this.deviceSizeBytes = job.deviceSizeBytes;
    this.#blockSizeBytes = job.blockSizeBytes;
  }

  offset(block: number): number {
    return Math.min(block * this.#blockSizeBytes, this.deviceSizeBytes);
  }

  /** Length of blocks [from, to) in bytes; the device's last block may be shorter than the others. */
  length(from: number, to: number): number {
    return this.offset(to) - this.offset(from);
  }

  /** How many blocks are at most `lengthBytes` long together; at least one. */
  fitting(lengthBytes: number): number {
    return Math.max(1, Math.floor(lengthBytes / this.#blockSizeBytes));
  }
}

/** @throws CofferdamError BAD_ARGUMENT for whatever the native core refuses too. */
export function checkCopyJob(job: CopyJob): void {
  const blocks = checkCommon(job);
  for (const name of ['selected', 'preserved', 'copied'] as const) {
    const bits = (job[name]?.length ?? Infinity) * 32;
    expect(
      bits >= blocks.onDevice,
      `${name}: room for ${bits} bits, but the device has ${blocks.onDevice} blocks`,
    );
  }
  expect(job.barrier === undefined || job.barrier.length >= 1, 'barrier: needs at least 1 entries');
  expect(job.cursor.length >= 1, 'cursor: needs at least 1 entries');
  const totalBytes = blocks.length(blocks.first, blocks.end);
  if ('fd' in job.source) checkDescriptor('source.fd', job.source.fd);
  else expectLength('source.bytes', job.source.bytes.length, totalBytes);
  if ('fd' in job.sink) {
    checkDescriptor('sink.fd', job.sink.fd);
    checkedBytes(job.capacityBytes, 'capacityBytes');
  } else {
    const room = job.sink.bytes.length;
    expect(room >= totalBytes, `sink.bytes: room for ${room} bytes where the job may need ${totalBytes}`);
  }
}

/** @throws CofferdamError BAD_ARGUMENT for whatever the native core refuses too. */
export function checkRestoreJob(job: RestoreJob): void {
  checkCommon(job);
  checkDescriptor('imageFd', job.imageFd);
  if (job.targetFd !== undefined) checkDescriptor('targetFd', job.targetFd);
  expectLength('faults', job.faults.length, job.blockCount);
  const restorable: readonly number[] = [BlockState.Skipped, BlockState.Zero, BlockState.Stored];
  const bad = job.states.findIndex((state) => !restorable.includes(state));
  expect(
    bad < 0,
    `states: block ${job.firstBlock + bad} has state ${job.states[bad]}, which cannot be restored`,
  );
}

/** @throws CofferdamError BAD_ARGUMENT */
export function checkAlgorithm(algorithm: HashAlgorithm): void {
  expect(
    Object.hasOwn(hashLengthBytes, algorithm),
    `"${algorithm}" is not a hash algorithm; use xxh64 or blake3`,
  );
}

function checkCommon(job: CopyJob | RestoreJob): JobBlocks {
  const { deviceSizeBytes, blockSizeBytes, firstBlock, blockCount, algorithm } = job;
  checkedBytes(deviceSizeBytes, 'deviceSizeBytes');
  const isPowerOfTwo = Number.isInteger(Math.log2(blockSizeBytes));
  expect(
    isPowerOfTwo && blockSizeBytes >= 4 * KiB && blockSizeBytes <= 4 * MiB,
    `blockSizeBytes: ${blockSizeBytes} is not a power of two from 4 KiB to 4 MiB`,
  );
  checkedBytes(firstBlock, 'firstBlock');
  checkedBytes(blockCount, 'blockCount');
  const blocks = new JobBlocks(job);
  expect(
    firstBlock <= blocks.onDevice && blockCount <= blocks.onDevice - firstBlock,
    `blocks ${firstBlock} to ${blocks.end} reach past the ${blocks.onDevice} blocks of a device of ${deviceSizeBytes} bytes`,
  );
  checkAlgorithm(algorithm);
  expect(job.cancel.length >= 1, 'cancel: needs at least 1 entries');
  expect(job.progress.length >= 2, 'progress: needs at least 2 entries');
  expectLength('states', job.states.length, blockCount);
  expectLength('offsets', job.offsets.length, blockCount);
  expectLength('hashes', job.hashes.length, blockCount * hashLengthBytes[algorithm]);
  return blocks;
}

function checkDescriptor(name: string, fd: number): void {
  expect(Number.isInteger(fd) && fd >= 0 && fd < 2 ** 31, `${name}: ${fd} is not a file descriptor`);
}

function expectLength(name: string, actual: number, expected: number): void {
  expect(actual === expected, `${name}: ${actual} entries where the job needs ${expected}`);
}

function expect(holds: boolean, message: string): void {
  if (!holds) throw new CofferdamError('BAD_ARGUMENT', message);
}
