import type { BlockDevice } from '../../devices/block-device.js';
import { CofferdamError, isCofferdamError, messageOf } from '../../runtime/errors.js';
import { truncationAdvice, type ImageStore } from './store.js';

/** An image on a block device, which it closes with itself. The device's size is the image's limit. */
export class DeviceStore implements ImageStore {
  readonly #device: BlockDevice;

  constructor(device: BlockDevice) {
    this.#device = device;
  }

  get name(): string {
    return this.#device.name;
  }

  get writable(): boolean {
    return !this.#device.capabilities.readOnly;
  }

  get capacityBytes(): number {
    return this.#device.sizeBytes;
  }

  get fd(): number | undefined {
    return this.#device.nativeSource?.fd;
  }

  async sizeBytes(): Promise<number> {
    return this.#device.sizeBytes;
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    try {
      await this.#device.read(offsetBytes, into);
    } catch (error) {
      if (isCofferdamError(error, 'DEVICE_CLOSED')) throw error;
      const isPastEnd = isCofferdamError(error, 'OUT_OF_RANGE');
      const what = `reading ${into.length} bytes at ${offsetBytes} failed: ${messageOf(error)}`;
      throw this.#failure(isPastEnd ? 'IMAGE_TRUNCATED' : 'DEVICE_IO', what, error);
    }
  }

  async write(offsetBytes: number, bytes: Uint8Array): Promise<void> {
    try {
      await this.#device.write(offsetBytes, bytes);
    } catch (error) {
      const isFull = isCofferdamError(error, 'DEVICE_FULL') || isCofferdamError(error, 'OUT_OF_RANGE');
      const what = `writing ${bytes.length} bytes at ${offsetBytes} failed: ${messageOf(error)}`;
      throw this.#failure(isFull ? 'TARGET_FULL' : 'TARGET_WRITE_FAILED', what, error);
    }
  }

  async sync(): Promise<void> {
    try {
      await this.#device.flush();
    } catch (error) {
      throw this.#failure('TARGET_WRITE_FAILED', `flush failed: ${messageOf(error)}`, error);
    }
  }

  close(): Promise<void> {
    return this.#device.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #failure(
    code: 'DEVICE_IO' | 'IMAGE_TRUNCATED' | 'TARGET_FULL' | 'TARGET_WRITE_FAILED',
    what: string,
    cause: unknown,
  ): CofferdamError {
    const advice = code === 'IMAGE_TRUNCATED' ? `; ${truncationAdvice}` : '';
    return new CofferdamError(code, `${this.name}: ${what}${advice}`, { device: this.name, cause });
  }
}
