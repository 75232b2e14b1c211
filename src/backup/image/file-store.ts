import { constants } from 'node:fs';
import { open, stat, type FileHandle } from 'node:fs/promises';
import type { Core } from '../../core/core.js';
import type { ByteRange } from '../../devices/byte-range.js';
import { claim, identityOfStats } from '../../devices/openers.js';
import { openError } from '../../devices/os-error.js';
import { roomAdvice } from '../../runtime/error-message.js';
import { CofferdamError, errnoOf, messageOf, type ErrorCode } from '../../runtime/errors.js';
import { truncationAdvice, type ImageStore } from './store.js';

/**
 * An image in a file, which grows as it is written. While it is open it is locked: against all others, or, to read,
 * against those that write.
 */
export class FileStore implements ImageStore {
  readonly capacityBytes = Infinity;
  readonly #handle: FileHandle;
  readonly #claim: Disposable;
  #closing: Promise<void> | undefined;

  private constructor(
    readonly name: string,
    handle: FileHandle,
    readonly writable: boolean,
    claimed: Disposable,
  ) {
    this.#handle = handle;
    this.#claim = claimed;
  }

  /** @throws CofferdamError DEVICE_NOT_FOUND, DEVICE_BUSY, DEVICE_IO */
  static open(path: string, core: Core, write: boolean): Promise<FileStore> {
    return FileStore.#openLocked(path, core, write ? constants.O_RDWR : constants.O_RDONLY, path);
  }

  /**
   * Makes a new file.
   *
   * @param name what to call it in messages.
   * @throws CofferdamError TARGET_EXISTS, DEVICE_IO
   */
  static create(path: string, core: Core, name: string): Promise<FileStore> {
    return FileStore.#openLocked(path, core, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, name);
  }

  static async #openLocked(path: string, core: Core, flags: number, name: string): Promise<FileStore> {
    const write = flags !== constants.O_RDONLY;
    const mode = write ? 'exclusive' : 'shared';
    const handle = await open(path, flags).catch((error: unknown) => {
      throw openError(name, error);
    });
    let claimed: Disposable | undefined;
    try {
      const identity = identityOfStats(await handle.stat({ bigint: true }));
      claimed = claim(identity, mode);
      // The lock goes away with the handle.
      if (!claimed || core.lock(handle.fd, mode) === 'busy') throw busy(name);
      // Whoever had the lock before us may have put another file in the place of this one.
      if (identityOfStats(await stat(path, { bigint: true })) !== identity) throw busy(name);
      return new FileStore(name, handle, write, claimed);
    } catch (error) {
      claimed?.[Symbol.dispose]();
      await handle.close();
      throw openError(name, error);
    }
  }

  get fd(): number {
    return this.#handle.fd;
  }

  async sizeBytes(): Promise<number> {
    return (await this.#handle.stat()).size;
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    for (let done = 0; done < into.length;) {
      const rest = { offsetBytes: offsetBytes + done, lengthBytes: into.length - done };
      try {
        const { bytesRead } = await this.#handle.read(into, done, rest.lengthBytes, rest.offsetBytes);
        if (bytesRead === 0) throw this.#endsBefore(rest);
        done += bytesRead;
      } catch (error) {
        throw this.#failure('DEVICE_IO', 'reading', error, rest);
      }
    }
  }

  async write(offsetBytes: number, bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length;) {
      const rest = { offsetBytes: offsetBytes + done, lengthBytes: bytes.length - done };
      try {
        const { bytesWritten } = await this.#handle.write(bytes, done, rest.lengthBytes, rest.offsetBytes);
        done += bytesWritten;
      } catch (error) {
        throw this.#failure(writeCode(error), 'writing', error, rest);
      }
    }
  }

  async sync(): Promise<void> {
    try {
      await this.#handle.sync();
    } catch (error) {
      throw this.#failure(writeCode(error), 'sync', error);
    }
  }

  async truncate(sizeBytes: number): Promise<void> {
    await this.#handle.truncate(sizeBytes);
  }

  close(): Promise<void> {
    this.#closing ??= this.#handle.close().finally(() => this.#claim[Symbol.dispose]());
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #endsBefore(range: ByteRange): CofferdamError {
    const what = `ends at ${range.offsetBytes}, in the middle of what was to be read; ${truncationAdvice}`;
    return new CofferdamError('IMAGE_TRUNCATED', `${this.name} ${what}`, { device: this.name, ...range });
  }

  #failure(code: ErrorCode, what: string, cause: unknown, range?: ByteRange): CofferdamError {
    if (cause instanceof CofferdamError) return cause;
    const place = range ? ` ${range.lengthBytes} bytes at ${range.offsetBytes}` : '';
    const advice = code === 'TARGET_FULL' ? `; ${roomAdvice}` : '';
    const message = `${this.name}: ${what}${place} failed: ${messageOf(cause)}${advice}`;
    return new CofferdamError(code, message, { device: this.name, ...range, cause });
  }
}

function busy(path: string): CofferdamError {
  return new CofferdamError(
    'DEVICE_BUSY',
    `${path} is in use by another backup, restore or open; wait until it has ended`,
    {
      device: path,
    },
  );
}

/** Some file systems find out only on a sync that they have no room. */
function writeCode(error: unknown): ErrorCode {
  return ['ENOSPC', 'EDQUOT', 'EFBIG'].includes(errnoOf(error) ?? '') ? 'TARGET_FULL' : 'TARGET_WRITE_FAILED';
}
