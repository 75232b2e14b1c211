import type { BlockDevice, Capabilities, Extent } from '../devices/block-device.js';
import { Lifetime } from '../devices/lifetime.js';

/** Where the bytes of a {@link ReadOnlyView} come from. */
export interface ReadOnlyContents {
  read(offsetBytes: number, into: Uint8Array): Promise<void>;
  allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]>;
}

/** Contents fixed by a cut, as a device that refuses writes. Closing it closes nothing: it only shows the contents. */
export class ReadOnlyView implements BlockDevice {
  readonly capabilities: Capabilities;
  /** The live device's bytes may be newer than the cut, so there is no place to read behind this view's back. */
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
      readOnly: true, // It is the past.
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
