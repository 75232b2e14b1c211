import { KiB, MiB } from '../../runtime/sizes.js';

/** No more than this is kept for later, in all connections of a process together. */
const KEPT_BYTES = 32 * MiB;

/** Shorter buffers cost less to make than to keep. */
const SHORTEST_BYTES = 64 * KiB;

/**
 * Buffers for data on its way, used again and again. Each one made anew is garbage soon after, and as it lies outside of
 * the heap a few of them make the engine look for garbage everywhere.
 */
export class BufferPool {
  readonly #free: Buffer[] = [];
  #freeBytes = 0;

  /** A buffer of this length, whose content is anything. */
  take(lengthBytes: number): Buffer {
    if (lengthBytes < SHORTEST_BYTES) return Buffer.allocUnsafe(lengthBytes);
    // One that is much longer is for someone who needs it.
    const index = this.#free.findLastIndex(
      ({ length }) => length >= lengthBytes && length <= 2 * lengthBytes,
    );
    const [found] = index === -1 ? [] : this.#free.splice(index, 1);
    if (!found) return Buffer.allocUnsafeSlow(roundUp(lengthBytes)).subarray(0, lengthBytes);
    this.#freeBytes -= found.length;
    return found.subarray(0, lengthBytes);
  }

  /** Gives back what {@link take} answered; nobody uses it any more. */
  give(buffer: Buffer): void {
    const { buffer: whole, byteLength } = buffer;
    if (byteLength < SHORTEST_BYTES || this.#freeBytes + whole.byteLength > KEPT_BYTES) return;
    this.#free.push(Buffer.from(whole));
    this.#freeBytes += whole.byteLength;
  }
}

export const bufferPool = new BufferPool();

/** To whole steps, so that a buffer also fits what is a little longer. */
function roundUp(lengthBytes: number): number {
  return Math.ceil(lengthBytes / SHORTEST_BYTES) * SHORTEST_BYTES;
}
