import { checkedBytes, formatBytes, KiB } from '../runtime/sizes.js';
import {
  appendExtent,
  type BlockDevice,
  type Capabilities,
  type Extent,
  type WriteOptions,
  type WriteZeroesOptions,
} from './block-device.js';
import { Lifetime } from './lifetime.js';

const CHUNK_BYTES = 64 * KiB;

/** A part of a request that lies within one chunk. */
interface Piece {
  chunk: number;
  /** Within the chunk. */
  startBytes: number;
  /** Within the request. */
  atBytes: number;
  lengthBytes: number;
}

export interface MemoryDeviceOptions {
  /** For messages; by default it tells the size. */
  name?: string;
}

/**
 * A device in this process's memory. It takes memory only where it was written, so its size costs nothing. Its
 * contents are gone when it is closed.
 *
 * Invariants:
 * 1. A chunk that is absent reads as zeros.
 * 2. Every request is applied in one turn of the event loop, so requests never interleave.
 */
export class MemoryDevice implements BlockDevice {
  readonly name: string;
  readonly sizeBytes: number;
  readonly capabilities: Capabilities = {
    readOnly: false,
    fua: true, // Every write is as durable as it will ever be.
    trim: true, // Whole chunks are given back.
    fastZero: true, // Whole chunks are given back, which makes them zeros.
    multiConnection: true, // There is one copy of the bytes.
    preferredBlockBytes: 1, // Memory is read and written in bytes.
  };
  /** The bytes are in no file. */
  readonly nativeSource = undefined;
  readonly #chunks = new Map<number, Uint8Array>();
  readonly #lifetime = new Lifetime(this);

  /** @param sizeBytes any whole number of bytes from 0 to 2^53-1. */
  constructor(sizeBytes: number, options: MemoryDeviceOptions = {}) {
    this.sizeBytes = checkedBytes(sizeBytes, 'size of a memory device');
    this.name = options.name ?? `memory of ${formatBytes(sizeBytes)}`;
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    using _request = this.#lifetime.admit('read', offsetBytes, into.byteLength);
    for (const { chunk, startBytes, atBytes, lengthBytes } of pieces(offsetBytes, into.byteLength)) {
      const bytes = this.#chunks.get(chunk);
      if (bytes) into.set(bytes.subarray(startBytes, startBytes + lengthBytes), atBytes);
      else into.fill(0, atBytes, atBytes + lengthBytes);
    }
  }

  async write(offsetBytes: number, bytes: Uint8Array, _options?: WriteOptions): Promise<void> {
    using _request = this.#lifetime.admit('write', offsetBytes, bytes.byteLength);
    for (const { chunk, startBytes, atBytes, lengthBytes } of pieces(offsetBytes, bytes.byteLength)) {
      this.#chunkFor(chunk).set(bytes.subarray(atBytes, atBytes + lengthBytes), startBytes);
    }
  }

  async flush(): Promise<void> {
    using _request = this.#lifetime.admitFlush();
  }

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    using _request = this.#lifetime.admit('trim', offsetBytes, lengthBytes);
    this.#makeZero(offsetBytes, lengthBytes);
  }

  /** `mayTrim` makes no difference: a hole in memory can always be filled again. */
  async writeZeroes(offsetBytes: number, lengthBytes: number, _options?: WriteZeroesOptions): Promise<void> {
    using _request = this.#lifetime.admit('write zeroes', offsetBytes, lengthBytes);
    this.#makeZero(offsetBytes, lengthBytes);
  }

  async allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    using _request = this.#lifetime.admit('allocation', offsetBytes, lengthBytes);
    const extents: Extent[] = [];
    const end = offsetBytes + lengthBytes;
    let at = offsetBytes;
    for (const chunk of this.#chunksWithin(offsetBytes, lengthBytes).sort((a, b) => a - b)) {
      const start = Math.max(at, chunk * CHUNK_BYTES);
      const stop = Math.min(end, (chunk + 1) * CHUNK_BYTES);
      appendExtent(extents, { offsetBytes: at, lengthBytes: start - at, kind: 'zero' });
      appendExtent(extents, { offsetBytes: start, lengthBytes: stop - start, kind: 'data' });
      at = stop;
    }
    appendExtent(extents, { offsetBytes: at, lengthBytes: end - at, kind: 'zero' });
    return extents;
  }

  close(): Promise<void> {
    return this.#lifetime.close(async () => this.#chunks.clear());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #chunkFor(chunk: number): Uint8Array {
    let bytes = this.#chunks.get(chunk);
    if (!bytes) {
      bytes = new Uint8Array(CHUNK_BYTES);
      this.#chunks.set(chunk, bytes);
    }
    return bytes;
  }

  #makeZero(offsetBytes: number, lengthBytes: number): void {
    const end = offsetBytes + lengthBytes;
    for (const chunk of this.#chunksWithin(offsetBytes, lengthBytes)) {
      const chunkStart = chunk * CHUNK_BYTES;
      const chunkEnd = Math.min(chunkStart + CHUNK_BYTES, this.sizeBytes);
      if (offsetBytes <= chunkStart && chunkEnd <= end) this.#chunks.delete(chunk);
      else this.#chunks.get(chunk)?.fill(0, Math.max(0, offsetBytes - chunkStart), end - chunkStart);
    }
  }

  /** The chunks present that overlap a range, in any order, found in a time that does not grow with empty space. */
  #chunksWithin(offsetBytes: number, lengthBytes: number): number[] {
    if (lengthBytes === 0) return [];
    const first = Math.floor(offsetBytes / CHUNK_BYTES);
    const last = Math.floor((offsetBytes + lengthBytes - 1) / CHUNK_BYTES);
    if (last - first >= this.#chunks.size) {
      return [...this.#chunks.keys()].filter((chunk) => first <= chunk && chunk <= last);
    }
    const present: number[] = [];
    for (let chunk = first; chunk <= last; chunk++) if (this.#chunks.has(chunk)) present.push(chunk);
    return present;
  }
}

function* pieces(offsetBytes: number, lengthBytes: number): Generator<Piece> {
  let atBytes = 0;
  while (atBytes < lengthBytes) {
    const position = offsetBytes + atBytes;
    const startBytes = position % CHUNK_BYTES;
    const length = Math.min(CHUNK_BYTES - startBytes, lengthBytes - atBytes);
    yield { chunk: Math.floor(position / CHUNK_BYTES), startBytes, atBytes, lengthBytes: length };
    atBytes += length;
  }
}
