import type { BlockDevice, WriteOptions } from '#src/devices/block-device';
import { MemoryDevice } from '#src/devices/memory';

/** A memory device whose writes wait at a gate until the test opens it, and which notes the order of what reaches it. */
export class GatedDevice extends MemoryDevice implements BlockDevice {
  readonly log: string[] = [];
  #gate: Promise<void> | undefined;
  #open: () => void = () => {};

  shut(): void {
    this.#gate = new Promise((open) => (this.#open = open));
  }

  open(): void {
    this.#gate = undefined;
    this.#open();
  }

  override async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    this.log.push(`read ${offsetBytes}+${into.length}`);
    await super.read(offsetBytes, into);
  }

  override async write(offsetBytes: number, bytes: Uint8Array, options?: WriteOptions): Promise<void> {
    this.log.push(`write ${offsetBytes}+${bytes.length}`);
    await this.#gate;
    await super.write(offsetBytes, bytes, options);
  }
}
