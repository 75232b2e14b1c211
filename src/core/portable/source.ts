import { messageOf, type CofferdamError } from '../../runtime/errors.js';
import type { CopyJob } from '../core.js';
import type { JobBlocks } from '../job.js';
import { rangeError, readFully, regularSize } from './file.js';
import type { Segment } from './segment.js';

/** Where a copy job's blocks come from. */
export interface BlockSource {
  /** What blocks are in after `fetch`. */
  readonly memory: Uint8Array;
  /** Whether the segment must be written before `lengthBytes` more are fetched. */
  isFull(segment: Segment, lengthBytes: number): boolean;
  /** Gets blocks [from, to) and answers where in the memory they start. */
  fetch(from: number, to: number, segment: Segment): number;
  /** @throws CofferdamError SOURCE_SHRUNK if the source is known to be shorter than the device. */
  checkSize(): void;
}

/** @param buffer memory for what is read from a file, the length of a segment. */
export function openSource(source: CopyJob['source'], blocks: JobBlocks, buffer: Uint8Array): BlockSource {
  return 'fd' in source
    ? new FileSource(source.fd, blocks, buffer)
    : new ContentSource(source.bytes, blocks, buffer.length);
}

/** Blocks that were handed over. */
class ContentSource implements BlockSource {
  constructor(
    readonly memory: Uint8Array,
    private readonly blocks: JobBlocks,
    private readonly segmentBytes: number,
  ) {}

  isFull(segment: Segment, lengthBytes: number): boolean {
    return segment.lengthBytes + lengthBytes > this.segmentBytes;
  }

  fetch(from: number): number {
    return this.blocks.length(this.blocks.first, from);
  }

  checkSize(): void {}
}

/** A device's file. Its holes are read like everything else. */
class FileSource implements BlockSource {
  constructor(
    private readonly fd: number,
    private readonly blocks: JobBlocks,
    readonly memory: Uint8Array,
  ) {}

  isFull(segment: Segment, lengthBytes: number): boolean {
    return segment.endInMemory + lengthBytes > this.memory.length;
  }

  fetch(from: number, to: number, segment: Segment): number {
    const start = segment.endInMemory;
    if (this.#read(from, to, start) === undefined) return start;
    // One by one, so that the error names the block that is bad.
    for (let block = from; block < to; block++) {
      const error = this.#read(block, block + 1, start + this.blocks.length(from, block));
      if (error !== undefined) throw this.#unreadable(block, block + 1, 'reading', error);
    }
    return start;
  }

  checkSize(): void {
    let sizeBytes: number | undefined;
    try {
      sizeBytes = regularSize(this.fd);
    } catch (error) {
      throw this.#unreadable(this.blocks.first, this.blocks.end, 'stat before reading', error);
    }
    if (sizeBytes !== undefined && sizeBytes < this.blocks.deviceSizeBytes) throw this.#shrunk(sizeBytes);
  }

  /** Reads blocks [from, to) to `memory[start..]` and answers the error of read(2), if there was one. */
  #read(from: number, to: number, start: number): unknown {
    const into = this.memory.subarray(start, start + this.blocks.length(from, to));
    const offsetBytes = this.blocks.offset(from);
    let count: number;
    try {
      count = readFully(this.fd, offsetBytes, into);
    } catch (error) {
      return error;
    }
    if (count < into.length) throw this.#shrunk(offsetBytes + count);
    return undefined;
  }

  #unreadable(from: number, to: number, operation: string, cause: unknown): CofferdamError {
    const offsetBytes = this.blocks.offset(from);
    const lengthBytes = this.blocks.length(from, to);
    const message = `${operation} ${lengthBytes} bytes at ${offsetBytes} failed: ${messageOf(cause)}`;
    return rangeError('SOURCE_READ_FAILED', message, offsetBytes, lengthBytes, cause);
  }

  #shrunk(sizeBytes: number): CofferdamError {
    const expectedBytes = this.blocks.deviceSizeBytes;
    const message = `the source ends at ${sizeBytes} but has to be ${expectedBytes} bytes long; it shrank or was replaced`;
    return rangeError('SOURCE_SHRUNK', message, sizeBytes, expectedBytes - sizeBytes);
  }
}
