import type {
  BlockDevice,
  Capabilities,
  Extent,
  WriteOptions,
  WriteZeroesOptions,
} from '../../devices/block-device.js';
import { Lifetime } from '../../devices/lifetime.js';

/** Sees a request on its way to the device inside, and carries it out, later or not at all. */
export type Intercept = <T>(operation: string, request: () => Promise<T>) => Promise<T>;

/** A device whose requests all pass through one function. Closing it leaves the device inside as it is. */
export class InterceptedDevice implements BlockDevice {
  readonly name: string;
  readonly sizeBytes: number;
  readonly capabilities: Capabilities;
  /** Every request must be seen. */
  readonly nativeSource = undefined;
  readonly #inner: () => BlockDevice;
  readonly #intercept: Intercept;
  readonly #lifetime = new Lifetime(this);

  /** @param inner the device inside, or what tells which it is when a request is carried out. */
  constructor(inner: BlockDevice | (() => BlockDevice), intercept: Intercept) {
    this.#inner = typeof inner === 'function' ? inner : () => inner;
    this.#intercept = intercept;
    ({ name: this.name, sizeBytes: this.sizeBytes, capabilities: this.capabilities } = this.#inner());
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    using _ = this.#lifetime.admit('read', offsetBytes, into.length);
    await this.#intercept('read', () => this.#inner().read(offsetBytes, into));
  }

  async write(offsetBytes: number, bytes: Uint8Array, options?: WriteOptions): Promise<void> {
    using _ = this.#lifetime.admit('write', offsetBytes, bytes.length);
    await this.#intercept('write', () => this.#inner().write(offsetBytes, bytes, options));
  }

  async flush(): Promise<void> {
    using _ = this.#lifetime.admitFlush();
    await this.#intercept('flush', () => this.#inner().flush());
  }

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    using _ = this.#lifetime.admit('trim', offsetBytes, lengthBytes);
    await this.#intercept('trim', () => this.#inner().trim(offsetBytes, lengthBytes));
  }

  async writeZeroes(offsetBytes: number, lengthBytes: number, options?: WriteZeroesOptions): Promise<void> {
    using _ = this.#lifetime.admit('write zeroes', offsetBytes, lengthBytes);
    await this.#intercept('write zeroes', () => this.#inner().writeZeroes(offsetBytes, lengthBytes, options));
  }

  async allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    using _ = this.#lifetime.admit('allocation', offsetBytes, lengthBytes);
    return await this.#intercept('allocation', () => this.#inner().allocation(offsetBytes, lengthBytes));
  }

  close(): Promise<void> {
    return this.#lifetime.close(() => Promise.resolve());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
