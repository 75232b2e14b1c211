import { KiB } from '../../runtime/sizes.js';
import { SharedBitmap } from '../bitmap.js';
import { BlockState, hashLengthBytes, type CopyJob, type CopyResult, type JobEnd } from '../core.js';
import { checkCopyJob, JobBlocks } from '../job.js';
import type { HashFunction } from './hash.js';
import { Segment } from './segment.js';
import { openSource, type BlockSource } from './source.js';
import { isZero } from './zero.js';

/** Bytes that are read at once. */
const RUN_BYTES = 256 * KiB;

/** A copy job of the portable core. The invariants are those of native/src/copy.rs. */
export class PortableCopy {
  readonly #job: CopyJob;
  readonly #hash: HashFunction;
  readonly #blocks: JobBlocks;
  readonly #source: BlockSource;
  readonly #segment: Segment;
  readonly #selected: SharedBitmap | undefined;
  readonly #preserved: SharedBitmap | undefined;
  readonly #copied: SharedBitmap | undefined;

  /** @param buffer memory for a segment, at least 4 MiB. */
  constructor(job: CopyJob, hash: HashFunction, buffer: Uint8Array) {
    checkCopyJob(job);
    const blocks = new JobBlocks(job);
    const bitmap = (words: CopyJob['selected']): SharedBitmap | undefined =>
      words && new SharedBitmap(blocks.onDevice, words);
    this.#job = job;
    this.#hash = hash;
    this.#blocks = blocks;
    this.#source = openSource(job.source, blocks, buffer);
    this.#segment = new Segment(job);
    this.#selected = bitmap(job.selected);
    this.#preserved = bitmap(job.preserved);
    this.#copied = bitmap(job.copied);
  }

  run(): CopyResult {
    this.#job.states.fill(BlockState.Skipped);
    this.#source.checkSize();
    const end = this.#copyBlocks();
    if (end === 'done') this.#source.checkSize();
    return { end, storedBytes: this.#segment.storedBytes };
  }

  #copyBlocks(): JobEnd {
    for (let block = this.#blocks.first; block < this.#blocks.end;) {
      if (Atomics.load(this.#job.cancel, 0) !== 0) return 'cancelled';
      if (this.#selected?.has(block) === false) {
        block++;
      } else if (this.#preserved?.has(block) === true) {
        this.#setState(block++, BlockState.Preserved);
      } else {
        const end = this.#runEnd(block);
        if (!this.#copyRun(block, end)) return 'barrier-lost';
        block = end;
      }
    }
    this.#segment.write(this.#source.memory);
    return 'done';
  }

  /** Where the run of wanted blocks ends that begins with this one. */
  #runEnd(block: number): number {
    const limit = Math.min(this.#blocks.end, block + this.#blocks.fitting(RUN_BYTES));
    let end = block + 1;
    while (end < limit && this.#selected?.has(end) !== false && this.#preserved?.has(end) !== true) end++;
    return end;
  }

  /** Copies blocks [from, to). False, and nothing is decided about them, if the barrier is down. */
  #copyRun(from: number, to: number): boolean {
    const source = this.#source;
    if (source.isFull(this.#segment, this.#blocks.length(from, to))) this.#segment.write(source.memory);
    const start = source.fetch(from, to, this.#segment);
    // Adding to a shared word is also the fence that native/src/copy.rs has between the read and the looks after it.
    Atomics.add(this.#job.progress, 1, BigInt(this.#blocks.length(from, to)));
    if (!this.#settle(from, to)) return false;
    for (let block = from; block < to; block++) {
      if (this.#state(block) === BlockState.Preserved) continue;
      const offset = start + this.#blocks.length(from, block);
      this.#keep(block, offset, offset + this.#blocks.length(block, block + 1));
    }
    return true;
  }

  /** As in native/src/copy.rs: decides about blocks that have just been read. */
  #settle(from: number, to: number): boolean {
    const { barrier } = this.#job;
    if (barrier && Atomics.load(barrier, 0) === 0) return false;
    for (let block = from; block < to; block++) {
      if (this.#preserved?.has(block) === true) this.#setState(block, BlockState.Preserved);
      else this.#copied?.add(block);
    }
    return true;
  }

  /** Hashes the block at [start, end) of the memory and keeps it if it has to be stored. */
  #keep(block: number, start: number, end: number): void {
    const { algorithm, hashes, progress } = this.#job;
    const bytes = this.#source.memory.subarray(start, end);
    const index = block - this.#blocks.first;
    if (isZero(bytes)) {
      this.#setState(block, BlockState.Zero);
    } else {
      hashes.set(this.#hash(algorithm, bytes), index * hashLengthBytes[algorithm]);
      this.#segment.keep(index, start, end);
    }
    Atomics.add(progress, 0, BigInt(end - start));
  }

  #state(block: number): number | undefined {
    return this.#job.states[block - this.#blocks.first];
  }

  #setState(block: number, state: number): void {
    this.#job.states[block - this.#blocks.first] = state;
  }
}
