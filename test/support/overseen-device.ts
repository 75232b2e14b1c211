import type {
  BlockDevice,
  Capabilities,
  Extent,
  NativeSource,
  WriteOptions,
  WriteZeroesOptions,
} from '#src/devices/block-device';

/** A device that notes which reads, writes and flushes come by its methods, rather than past them by its descriptor. */
export class OverseenDevice implements BlockDevice {
  readonly log: string[] = [];
  readonly name: string;
  readonly sizeBytes: number;
  readonly capabilities: Capabilities;
  readonly nativeSource: NativeSource | undefined;
  /** Called before a write reaches the device. */
  onWrite: () => Promise<void> | void = () => {};
  readonly #device: BlockDevice;

  constructor(device: BlockDevice, nativeSource = device.nativeSource) {
    this.#device = device;
    this.name = device.name;
    this.sizeBytes = device.sizeBytes;
    this.capabilities = device.capabilities;
    this.nativeSource = nativeSource;
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    this.log.push(`read ${offsetBytes}+${into.length}`);
    await this.#device.read(offsetBytes, into);
  }

  async write(offsetBytes: number, bytes: Uint8Array, options?: WriteOptions): Promise<void> {
    this.log.push(`write ${offsetBytes}+${bytes.length}`);
    await this.onWrite();
    await this.#device.write(offsetBytes, bytes, options);
  }

  async flush(): Promise<void> {
    this.log.push('flush');
    await this.#device.flush();
  }

  trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.#device.trim(offsetBytes, lengthBytes);
  }

  writeZeroes(offsetBytes: number, lengthBytes: number, options?: WriteZeroesOptions): Promise<void> {
    return this.#device.writeZeroes(offsetBytes, lengthBytes, options);
  }

  allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    return this.#device.allocation(offsetBytes, lengthBytes);
  }

  close(): Promise<void> {
    return this.#device.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
