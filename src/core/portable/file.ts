import { fstatSync, readSync, writeSync } from 'node:fs';
import { CofferdamError, errnoOf, messageOf, type ErrorCode } from '../../runtime/errors.js';

/**
 * Fills `into` from `offsetBytes` on, as far as the file reaches, and answers how many bytes that was.
 *
 * @throws the error of read(2)
 */
export function readFully(fd: number, offsetBytes: number, into: Uint8Array): number {
  let done = 0;
  while (done < into.length) {
    const count = readSync(fd, into, done, into.length - done, offsetBytes + done);
    if (count === 0) break;
    done += count;
  }
  return done;
}

/** @throws CofferdamError TARGET_FULL, TARGET_WRITE_FAILED */
export function writeFully(fd: number, offsetBytes: number, bytes: Uint8Array): void {
  let done = 0;
  try {
    while (done < bytes.length) {
      const count = writeSync(fd, bytes, done, bytes.length - done, offsetBytes + done);
      if (count === 0) throw new Error('nothing was written');
      done += count;
    }
  } catch (error) {
    throw rangeError(
      isFull(error) ? 'TARGET_FULL' : 'TARGET_WRITE_FAILED',
      `writing ${bytes.length} bytes at ${offsetBytes} failed: ${messageOf(error)}`,
      offsetBytes,
      bytes.length,
      error,
    );
  }
}

/** Size of a regular file in bytes; undefined for everything else, where stat(2) does not know it. */
export function regularSize(fd: number): number | undefined {
  const stat = fstatSync(fd);
  return stat.isFile() ? stat.size : undefined;
}

export function rangeError(
  code: ErrorCode,
  message: string,
  offsetBytes: number,
  lengthBytes: number,
  cause?: unknown,
): CofferdamError {
  return new CofferdamError(code, message, { offsetBytes, lengthBytes, cause });
}

/** Whether the medium, a quota or a size limit has no room for a write. */
function isFull(error: unknown): boolean {
  return ['ENOSPC', 'EDQUOT', 'EFBIG'].includes(errnoOf(error) ?? '');
}
