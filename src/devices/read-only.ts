import type { BlockDevice, Capabilities, Extent } from './block-device.js';
import { Lifetime } from './lifetime.js';

/** Where the bytes of a {@link ReadOnlyDevice} come from. */
export interface ReadOnlyContents {
  read(offsetBytes: number, into: Uint8Array): Promise<void>;
  allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]>;
}

/**
 * Contents that nobody can change any more, as a device that refuses writes. Closing it closes nothing else: it only
 * shows the contents.
 */
export class ReadOnlyDevice implements BlockDevice {
  readonly capabilities: Capabilities;
  /** What lies in any file need not be these contents, or is to be checked on the way. */
  readonly nativeSource = undefined;
  readonly #contents: ReadOnlyContents;
  readonly #lifetime = new Lifetime(this);

  constructor(
    readonly name: string,
    readonly sizeBytes: number,
    preferredBlockBytes: number,
    contents: ReadOnlyContents,
  ) {
    this.#contents = contents;
    this.capabilities = {
      readOnly: true, // The contents are those of the past.
      fua: false, // Nothing is ever written.
      trim: false,
      fastZero: false,
      multiConnection: true, // All readers see the same bytes for ever.
      preferredBlockBytes,
    };
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    using _ = this.#lifetime.admit('read', offsetBytes, into.length);
    await this.#contents.read(offsetBytes, into);
  }

  async write(offsetBytes: number, bytes: Uint8Array): Promise<void> {
    using _ = this.#lifetime.admit('write', offsetBytes, bytes.length);
  }

  async flush(): Promise<void> {
    using _ = this.#lifetime.admitFlush();
  }

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    using _ = this.#lifetime.admit('trim', offsetBytes, lengthBytes);
  }

  async writeZeroes(offsetBytes: number, lengthBytes: number): Promise<void> {
    using _ = this.#lifetime.admit('write zeroes', offsetBytes, lengthBytes);
  }

  async allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    using _ = this.#lifetime.admit('allocation', offsetBytes, lengthBytes);
    return await this.#contents.allocation(offsetBytes, lengthBytes);
  }

  close(): Promise<void> {
    return this.#lifetime.close(() => Promise.resolve());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
