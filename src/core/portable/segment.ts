import { roundUp } from '../../runtime/sizes.js';
import { BlockState, type CopyJob } from '../core.js';
import { rangeError, writeFully } from './file.js';

/** Segments in a file start at multiples of this many bytes. */
const SEGMENT_ALIGNMENT_BYTES = 4096;

interface KeptBlock {
  /** Which block of the job it is. */
  index: number;
  /** Where it is in the memory that is given to `write`. */
  start: number;
  end: number;
}

/**
 * Blocks that are kept until they are worth a write, in the order of the device. A block has its state `Stored` only
 * once it has been written: what a job that ends early did not write stays `Skipped`.
 */
export class Segment {
  readonly #job: CopyJob;
  #kept: KeptBlock[] = [];
  /** Length of the blocks kept. */
  lengthBytes = 0;
  /** Length of all blocks written so far. */
  storedBytes = 0;

  constructor(job: CopyJob) {
    this.#job = job;
  }

  /** Where the last block that was kept ends. */
  get endInMemory(): number {
    return this.#kept.at(-1)?.end ?? 0;
  }

  keep(index: number, start: number, end: number): void {
    this.#kept.push({ index, start, end });
    this.lengthBytes += end - start;
  }

  /** Writes the blocks one after the other to the next free place, says where each is, and forgets them. */
  write(memory: Uint8Array): void {
    if (this.#kept.length === 0) return;
    const { sink, offsets, states } = this.#job;
    const start = 'fd' in sink ? this.#takeSpace() : this.storedBytes;
    let offset = start;
    for (const piece of this.#pieces()) {
      const bytes = memory.subarray(piece.start, piece.end);
      if ('fd' in sink) writeFully(sink.fd, offset, bytes);
      else sink.bytes.set(bytes, offset);
      offset += bytes.length;
    }
    offset = start;
    for (const kept of this.#kept) {
      offsets[kept.index] = offset;
      states[kept.index] = BlockState.Stored;
      offset += kept.end - kept.start;
    }
    this.storedBytes += this.lengthBytes;
    this.lengthBytes = 0;
    this.#kept = [];
  }

  /** The kept bytes in as few pieces as they have gaps. */
  #pieces(): { start: number; end: number }[] {
    const pieces: { start: number; end: number }[] = [];
    for (const { start, end } of this.#kept) {
      const last = pieces.at(-1);
      if (last?.end === start) last.end = end;
      else pieces.push({ start, end });
    }
    return pieces;
  }

  /** Takes room for the segment off the cursor and answers where it starts. */
  #takeSpace(): number {
    const { cursor, capacityBytes } = this.#job;
    const paddedBytes = roundUp(this.lengthBytes, SEGMENT_ALIGNMENT_BYTES);
    for (;;) {
      const start = Atomics.load(cursor, 0);
      const end = start + BigInt(paddedBytes);
      if (start < 0n || end > BigInt(capacityBytes)) {
        const message = `${paddedBytes} more bytes at ${start} do not fit into the ${capacityBytes} bytes that the image may have`;
        throw rangeError('TARGET_FULL', message, Math.max(0, Number(start)), paddedBytes);
      }
      if (Atomics.compareExchange(cursor, 0, start, end) === start) return Number(start);
    }
  }
}
