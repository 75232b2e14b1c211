import type { FileHandle } from 'node:fs/promises';
import { CofferdamError, errnoOf, messageOf, type ErrorCode } from '../../runtime/errors.js';
import type { ImageStore } from './store.js';

/** An image in a file, which grows as it is written. The file is locked for as long as the store is open. */
export class FileStore implements ImageStore {
  readonly capacityBytes = Infinity;
  readonly #handle: FileHandle;
  readonly #lock: Disposable;
  #closing: Promise<void> | undefined;

  /** Takes over the handle and the lock, and closes both. */
  constructor(
    readonly name: string,
    handle: FileHandle,
    readonly writable: boolean,
    lock: Disposable,
  ) {
    this.#handle = handle;
    this.#lock = lock;
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
    this.#closing ??= this.#handle.close().finally(() => this.#lock[Symbol.dispose]());
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

function isFull(error: unknown): boolean {
  return ['ENOSPC', 'EDQUOT', 'EFBIG'].includes(errnoOf(error) ?? '');
}
