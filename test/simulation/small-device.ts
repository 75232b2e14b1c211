import type { BlockDevice, Capabilities, Extent } from '#src/devices/block-device';

/** What makes a device wait. */
export interface Gate {
  /** Resolves when what is named may happen. */
  step(kind: 'write' | 'preserve' | 'copy', label: string): Promise<void>;
  /** The copier's requests are looked up in one step and answered in another. */
  slowReads: boolean;
}

/** A device of a few blocks, each of whose requests waits until it is told to happen. Without a gate none does. */
export class SmallDevice implements BlockDevice {
  readonly capabilities: Capabilities = {
    readOnly: false,
    fua: true,
    trim: false,
    fastZero: false,
    multiConnection: true,
    preferredBlockBytes: 1,
  };
  readonly nativeSource = undefined;
  readonly #gate: Gate | undefined;

  constructor(
    readonly name: string,
    readonly bytes: Uint8Array,
    gate?: Gate,
  ) {
    this.#gate = gate;
  }

  get sizeBytes(): number {
    return this.bytes.length;
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    // The copier reads into memory that it shares with its threads, copy-before-write into memory of its own.
    const isCopier = into.buffer instanceof SharedArrayBuffer;
    const kind = isCopier ? 'copy' : 'preserve';
    await this.#gate?.step(kind, `reads ${offsetBytes}`);
    into.set(this.bytes.subarray(offsetBytes, offsetBytes + into.length));
    if (isCopier && this.#gate?.slowReads) await this.#gate.step(kind, `has read ${offsetBytes}`);
  }

  async write(offsetBytes: number, bytes: Uint8Array): Promise<void> {
    await this.#gate?.step('write', `${offsetBytes}`);
    this.bytes.set(bytes, offsetBytes);
  }

  /** Says that there is data, unless it is asked to take its time over the answer. */
  async allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    if (!this.#gate?.slowReads) return [{ offsetBytes, lengthBytes, kind: 'data' }];
    await this.#gate.step('copy', `maps ${offsetBytes}`);
    const isZero = this.bytes.subarray(offsetBytes, offsetBytes + lengthBytes).every((byte) => byte === 0);
    await this.#gate.step('copy', `has mapped ${offsetBytes}`);
    return [{ offsetBytes, lengthBytes, kind: isZero ? 'zero' : 'data' }];
  }

  async flush(): Promise<void> {}

  async trim(): Promise<void> {
    throw new Error('nobody trims a small device');
  }

  async writeZeroes(): Promise<void> {
    throw new Error('nobody writes zeroes to a small device');
  }

  async close(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {}
}
