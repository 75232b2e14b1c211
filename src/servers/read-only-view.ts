import { checkRequest, type BlockDevice, type Capabilities, type Extent } from '../devices/block-device.js';

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
    checkRequest(this, 'read', offsetBytes, into.length);
    await this.#contents.read(offsetBytes, into);
  }

  async write(offsetBytes: number, bytes: Uint8Array): Promise<void> {
    checkRequest(this, 'write', offsetBytes, bytes.length);
  }

  async flush(): Promise<void> {}

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    checkRequest(this, 'trim', offsetBytes, lengthBytes);
  }

  async writeZeroes(offsetBytes: number, lengthBytes: number): Promise<void> {
    checkRequest(this, 'write zeroes', offsetBytes, lengthBytes);
  }

  async allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    checkRequest(this, 'allocation', offsetBytes, lengthBytes);
    return this.#contents.allocation(offsetBytes, lengthBytes);
  }

  async close(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {}
}
