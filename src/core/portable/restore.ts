import { MiB } from '../../runtime/sizes.js';
import { BlockFault, BlockState, hashLengthBytes, type JobEnd, type RestoreJob } from '../core.js';
import { checkRestoreJob, JobBlocks } from '../job.js';
import { readFully, writeFully } from './file.js';
import type { HashFunction } from './hash.js';
import { zeros } from './zero.js';

/** Bytes that are dealt with between two looks at `cancel`. */
const RUN_BYTES = 1 * MiB;

/** A restore job of the portable core. The invariants are those of native/src/restore.rs. */
export class PortableRestore {
  readonly #job: RestoreJob;
  readonly #hash: HashFunction;
  readonly #blocks: JobBlocks;
  readonly #buffer: Uint8Array;

  /** @param buffer memory for a run, at least 4 MiB. */
  constructor(job: RestoreJob, hash: HashFunction, buffer: Uint8Array) {
    checkRestoreJob(job);
    this.#job = job;
    this.#hash = hash;
    this.#blocks = new JobBlocks(job);
    this.#buffer = buffer;
  }

  run(): JobEnd {
    const { cancel, faults, targetFd, zeroTarget } = this.#job;
    faults.fill(BlockFault.None);
    for (let block = this.#blocks.first; block < this.#blocks.end;) {
      if (Atomics.load(cancel, 0) !== 0) return 'cancelled';
      const end = this.#runEnd(block);
      const state = this.#state(block);
      if (state === BlockState.Stored) {
        this.#restoreStored(block, end);
      } else if (state === BlockState.Zero) {
        if (targetFd !== undefined && zeroTarget) this.#writeZeros(targetFd, block, end);
        this.#count(block, end, 0);
      }
      block = end;
    }
    return 'done';
  }

  /** Where the run of blocks ends that begins with this one: of one state, and neighbours in the image if stored. */
  #runEnd(block: number): number {
    const limit = Math.min(this.#blocks.end, block + this.#blocks.fitting(RUN_BYTES));
    let end = block + 1;
    while (end < limit && this.#state(end) === this.#state(block) && this.#followsInImage(end)) end++;
    return end;
  }

  #followsInImage(block: number): boolean {
    if (this.#state(block) !== BlockState.Stored) return true;
    return this.#imageOffset(block) === this.#imageOffset(block - 1) + this.#blocks.length(block - 1, block);
  }

  #restoreStored(from: number, to: number): void {
    if (!this.#read(from, to)) {
      for (let block = from; block < to; block++) {
        if (!this.#read(block, block + 1, this.#blocks.length(from, block))) {
          this.#setFault(block, BlockFault.Unreadable);
        }
      }
    }
    for (let block = from; block < to; block++) {
      if (this.#isGood(block) && !this.#matches(block, this.#blocks.length(from, block))) {
        this.#setFault(block, BlockFault.Mismatch);
      }
    }
    if (this.#job.targetFd !== undefined) this.#writeGood(this.#job.targetFd, from, to);
    this.#count(from, to, this.#blocks.length(from, to));
  }

  /** Reads blocks that are neighbours in the image to `start` of the buffer. False if that fails. */
  #read(from: number, to: number, start = 0): boolean {
    const offsetBytes = this.#imageOffset(from);
    if (!Number.isSafeInteger(offsetBytes) || offsetBytes < 0) return false;
    const into = this.#buffer.subarray(start, start + this.#blocks.length(from, to));
    try {
      return readFully(this.#job.imageFd, offsetBytes, into) === into.length;
    } catch {
      return false;
    }
  }

  #matches(block: number, start: number): boolean {
    const { algorithm, hashes } = this.#job;
    const length = hashLengthBytes[algorithm];
    const index = block - this.#blocks.first;
    const bytes = this.#buffer.subarray(start, start + this.#blocks.length(block, block + 1));
    const known = hashes.subarray(index * length, (index + 1) * length);
    return Buffer.compare(this.#hash(algorithm, bytes), known) === 0;
  }

  /** Writes the good blocks of [from, to), those that are neighbours at once. */
  #writeGood(targetFd: number, from: number, to: number): void {
    for (let block = from; block < to; block++) {
      const first = block;
      while (block < to && this.#isGood(block)) block++;
      const start = this.#blocks.length(from, first);
      const bytes = this.#buffer.subarray(start, start + this.#blocks.length(first, block));
      if (bytes.length > 0) writeFully(targetFd, this.#blocks.offset(first), bytes);
    }
  }

  #writeZeros(targetFd: number, from: number, to: number): void {
    const end = this.#blocks.offset(to);
    for (let offset = this.#blocks.offset(from); offset < end; offset += zeros.length) {
      writeFully(targetFd, offset, zeros.subarray(0, end - offset));
    }
  }

  #count(from: number, to: number, readBytes: number): void {
    const { progress } = this.#job;
    Atomics.add(progress, 0, BigInt(this.#blocks.length(from, to)));
    Atomics.add(progress, 1, BigInt(readBytes));
  }

  #state(block: number): number | undefined {
    return this.#job.states[block - this.#blocks.first];
  }

  #imageOffset(block: number): number {
    return this.#job.offsets[block - this.#blocks.first] ?? NaN;
  }

  #isGood(block: number): boolean {
    return this.#job.faults[block - this.#blocks.first] === BlockFault.None;
  }

  #setFault(block: number, fault: number): void {
    this.#job.faults[block - this.#blocks.first] = fault;
  }
}
