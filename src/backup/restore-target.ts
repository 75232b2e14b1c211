import { ftruncate } from 'node:fs';
import { unlink } from 'node:fs/promises';
import { promisify } from 'node:util';
import type { Core } from '../core/core.js';
import type { BlockDevice } from '../devices/block-device.js';
import { FileDevice } from '../devices/file.js';
import { identityOf, openDevice } from '../devices/open.js';
import { CofferdamError, invariant } from '../runtime/errors.js';
import { formatBytes } from '../runtime/sizes.js';
import { asideOf, publish } from './publish.js';

/**
 * Where one device is restored to. In order: `open` everything that a restore needs, so that nothing is touched if
 * anything is missing; `prepare`; write to `device`; `finish`, or `discard` at any time.
 */
export class RestoreTarget {
  #device: BlockDevice;
  #aside: string | undefined;
  #isBlank: boolean;
  #isOverwritten = false;

  private constructor(
    readonly path: string,
    /** Size of what is restored, in bytes. */
    readonly sizeBytes: number,
    device: BlockDevice,
    aside: string | undefined,
    readonly core: Core,
  ) {
    this.#device = device;
    this.#aside = aside;
    this.#isBlank = aside !== undefined;
  }

  /**
   * A new file is made under another name, and gets its own when it is finished. A file or block device that is there
   * already is locked and, after `prepare`, written in place.
   *
   * @throws CofferdamError TARGET_EXISTS unless `force`, TARGET_TOO_SMALL, DEVICE_BUSY, DEVICE_UNSUPPORTED, DEVICE_IO,
   * DEVICE_NOT_FOUND, DEVICE_FULL
   */
  static async open(path: string, sizeBytes: number, force: boolean, core: Core): Promise<RestoreTarget> {
    if ((await identityOf(path)).length === 0) {
      const aside = asideOf(path);
      const device = await FileDevice.open(aside, { create: { sizeBytes }, core });
      return new RestoreTarget(path, sizeBytes, device, aside, core);
    }
    if (!force) {
      throw new CofferdamError('TARGET_EXISTS', `${path} exists; say --force to overwrite what it holds`, {
        device: path,
      });
    }
    const device = await openDevice(path, { core });
    const isFile = device instanceof FileDevice;
    if (!isFile && device.sizeBytes < sizeBytes) {
      await device.close();
      throw new CofferdamError(
        'TARGET_TOO_SMALL',
        `${path} has ${formatBytes(device.sizeBytes)}, the device to restore has ${formatBytes(sizeBytes)}`,
        { device: path },
      );
    }
    return new RestoreTarget(path, sizeBytes, device, undefined, core);
  }

  get device(): BlockDevice {
    return this.#device;
  }

  /** Once it is prepared, it reads as zeros wherever it was not written. */
  get isBlank(): boolean {
    return this.#isBlank;
  }

  /** What it held is lost, in part or wholly, however the restore goes on. */
  get isOverwritten(): boolean {
    return this.#isOverwritten;
  }

  /** Gives a file that was there the size of the device; empties it if that is the only way to make it zero cheaply. */
  async prepare(): Promise<void> {
    if (this.#aside !== undefined) return;
    this.#isOverwritten = true;
    if (!(this.#device instanceof FileDevice)) return;
    const fd = this.#device.nativeSource?.fd;
    invariant(fd !== undefined, 'a file has a descriptor');
    // Whether its file system makes holes in files, only trying tells: behind the end, where there is nothing to lose.
    const empties = !(await this.core.zeroRange(fd, this.#device.sizeBytes, 1, true));
    if (!empties && this.#device.sizeBytes === this.sizeBytes) return;
    if (empties) await promisify(ftruncate)(fd, 0);
    await promisify(ftruncate)(fd, this.sizeBytes);
    this.#isBlank = empties;
    // A device has the size that its file had when it was opened.
    await this.#device.close();
    this.#device = await FileDevice.open(this.path, { core: this.core });
  }

  /** Makes a new file appear. All that was written must have been flushed. */
  async finish(): Promise<void> {
    if (this.#aside !== undefined) await publish(this.#aside, this.path);
    this.#aside = undefined;
    await this.#device.close();
  }

  /** Leaves no trace of a new file. Does nothing to a target that is finished. */
  async discard(): Promise<void> {
    await this.#device.close();
    if (this.#aside !== undefined) await unlink(this.#aside).catch(() => undefined);
    this.#aside = undefined;
  }
}
