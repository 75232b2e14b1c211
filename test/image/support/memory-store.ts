import type { ImageStore } from '#src/backup/image/store';
import { CofferdamError } from '#src/runtime/errors';

/** An image in memory that grows like a file. Closing it does nothing, so it can be opened again. */
export class MemoryStore implements ImageStore {
  readonly name = 'image in memory';
  readonly writable = true;
  readonly capacityBytes = Infinity;
  readonly fd = undefined;
  #bytes: Uint8Array;
  #size: number;

  constructor(content: Uint8Array = new Uint8Array(0)) {
    this.#bytes = content.slice();
    this.#size = content.length;
  }

  /** The content; a view, not a copy. */
  get bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#size);
  }

  async sizeBytes(): Promise<number> {
    return this.#size;
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    if (offsetBytes + into.length > this.#size) {
      throw new CofferdamError('IMAGE_TRUNCATED', `${this.name} ends at ${this.#size}`);
    }
    into.set(this.#bytes.subarray(offsetBytes, offsetBytes + into.length));
  }

  async write(offsetBytes: number, bytes: Uint8Array): Promise<void> {
    const end = offsetBytes + bytes.length;
    if (end > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(end, 2 * this.#bytes.length));
      larger.set(this.bytes);
      this.#bytes = larger;
    }
    this.#bytes.set(bytes, offsetBytes);
    this.#size = Math.max(this.#size, end);
  }

  async sync(): Promise<void> {}

  async truncate(sizeBytes: number): Promise<void> {
    this.#bytes.fill(0, sizeBytes);
    if (sizeBytes > this.#size) await this.write(sizeBytes - 1, new Uint8Array(1));
    this.#size = sizeBytes;
  }

  async close(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {}
}
