import { KiB, MiB } from '../../runtime/sizes.js';
import type { FreeSpace } from './space.js';

const FIRST_CHUNK_BYTES = 64 * KiB;
const MAX_CHUNK_BYTES = 1 * MiB;

/**
 * Gathers block-map nodes, so that they reach the store in few large writes. A node has its place as soon as it is
 * appended; it is on the store after `flush`. Chunks grow, so that a small generation does not take a large one.
 */
export class NodeSink {
  readonly #space: FreeSpace;
  #chunk: { offset: number; length: number } = { offset: 0, length: 0 };
  #bytes = new Uint8Array(0);
  #used = 0;
  #flushed = 0;
  #writing: Promise<void> = Promise.resolve();

  constructor(space: FreeSpace) {
    this.#space = space;
  }

  /**
   * @returns where the node will be.
   * @throws CofferdamError TARGET_FULL, TARGET_WRITE_FAILED (of this or an earlier node)
   */
  async append(node: Uint8Array): Promise<number> {
    const written = this.#used + node.length > this.#chunk.length ? this.#nextChunk(node.length) : undefined;
    const offset = this.#chunk.offset + this.#used;
    this.#bytes.set(node, this.#used);
    this.#used += node.length;
    // At most two chunks are in memory: one that fills and one on its way to the store.
    await written;
    return offset;
  }

  /** @throws CofferdamError TARGET_WRITE_FAILED */
  async flush(): Promise<void> {
    this.#writeRest();
    await this.#writing;
  }

  /** Flushes, and gives back the space that no node was put in, if it still can. */
  async finish(): Promise<void> {
    await this.flush();
    this.#space.giveBack(this.#chunk.offset + this.#used, this.#chunk.offset + this.#chunk.length);
    this.#chunk = { offset: 0, length: 0 };
    this.#used = this.#flushed = 0;
  }

  #nextChunk(neededBytes: number): Promise<void> {
    const wanted = Math.min(MAX_CHUNK_BYTES, Math.max(FIRST_CHUNK_BYTES, 2 * this.#chunk.length));
    const previous = this.#writing;
    this.#writeRest();
    this.#chunk = this.#space.take(neededBytes, wanted);
    this.#bytes = new Uint8Array(this.#chunk.length);
    this.#used = this.#flushed = 0;
    return previous;
  }

  #writeRest(): void {
    if (this.#flushed === this.#used) return;
    const bytes = this.#bytes.subarray(this.#flushed, this.#used);
    const offset = this.#chunk.offset + this.#flushed;
    this.#flushed = this.#used;
    this.#writing = this.#writing.then(() => this.#space.store.write(offset, bytes));
    // The failure is thrown by whoever waits next; until then it must not count as unhandled.
    this.#writing.catch(() => undefined);
  }
}
