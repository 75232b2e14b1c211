import { constants } from 'node:fs';
import { open, stat, type FileHandle } from 'node:fs/promises';
import type { Core } from '../../core/core.js';
import { claim, identityOfStats } from '../../devices/openers.js';
import { openError } from '../../devices/os-error.js';
import { CofferdamError, errnoOf, messageOf, type ErrorCode } from '../../runtime/errors.js';
import type { ImageStore } from './store.js';

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
  static async open(path: string, core: Core, write: boolean): Promise<FileStore> {
    const store = await FileStore.#openLocked(
      path,
      core,
      write ? constants.O_RDWR : constants.O_RDONLY,
      path,
    );
    // Whoever had the lock before us may have put another file in the place of the one that we waited for.
    const now = identityOfStats(await stat(path, { bigint: true }));
    if (now === identityOfStats(await store.#handle.stat({ bigint: true }))) return store;
    await store.close();
    throw busy(path);
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
      claimed = claim(identityOfStats(await handle.stat({ bigint: true })), mode);
      // The lock goes away with the handle.
      if (!claimed || core.lock(handle.fd, mode) === 'busy') throw busy(name);
      return new FileStore(name, handle, write, claimed);
    } catch (error) {
      claimed?.[Symbol.dispose]();
      await handle.close();
      throw error;
    }
  }

  get fd(): number {
    return this.#handle.fd;
  }

  async sizeBytes(): Promise<number> {
    return (await this.#handle.stat()).size;
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    let done = 0;
    while (done < into.length) {
      const position = offsetBytes + done;
      const { bytesRead } = await this.#handle
        .read(into, done, into.length - done, position)
        .catch((error: unknown) => {
          throw this.#failure('DEVICE_IO', 'reading', position, into.length - done, error);
        });
      if (bytesRead === 0) throw this.#truncated(position, into.length - done);
      done += bytesRead;
    }
  }

  async write(offsetBytes: number, bytes: Uint8Array): Promise<void> {
    let done = 0;
    while (done < bytes.length) {
      const position = offsetBytes + done;
      const { bytesWritten } = await this.#handle
        .write(bytes, done, bytes.length - done, position)
        .catch((error: unknown) => {
          const code = isFull(error) ? 'TARGET_FULL' : 'TARGET_WRITE_FAILED';
          throw this.#failure(code, 'writing', position, bytes.length - done, error);
        });
      done += bytesWritten;
    }
  }

  async sync(): Promise<void> {
    try {
      await this.#handle.sync();
    } catch (error) {
      // Some file systems find out only now that they have no room.
      throw this.#failure(
        isFull(error) ? 'TARGET_FULL' : 'TARGET_WRITE_FAILED',
        'sync',
        undefined,
        undefined,
        error,
      );
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

  #truncated(offsetBytes: number, lengthBytes: number): CofferdamError {
    const { name } = this;
    return new CofferdamError(
      'IMAGE_TRUNCATED',
      `${name} ends at ${offsetBytes}, in the middle of what was to be read`,
      {
        device: name,
        offsetBytes,
        lengthBytes,
      },
    );
  }

  #failure(
    code: ErrorCode,
    what: string,
    offsetBytes: number | undefined,
    lengthBytes: number | undefined,
    cause: unknown,
  ): CofferdamError {
    const place = offsetBytes === undefined ? '' : ` ${lengthBytes} bytes at ${offsetBytes}`;
    return new CofferdamError(code, `${this.name}: ${what}${place} failed: ${messageOf(cause)}`, {
      device: this.name,
      ...(offsetBytes === undefined ? {} : { offsetBytes }),
      ...(lengthBytes === undefined ? {} : { lengthBytes }),
      cause,
    });
  }
}

function busy(path: string): CofferdamError {
  return new CofferdamError(
    'DEVICE_BUSY',
    `${path} is in use by another backup or restore; wait until it has ended`,
    {
      device: path,
    },
  );
}

function isFull(error: unknown): boolean {
  return ['ENOSPC', 'EDQUOT', 'EFBIG'].includes(errnoOf(error) ?? '');
}
