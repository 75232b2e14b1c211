import { CofferdamError, errorCodes, type ErrorCode } from '../../runtime/errors.js';
import { Errno, type ErrorNumber } from '../protocol.js';

const errnos: Partial<Record<ErrorCode, ErrorNumber>> = {
  READ_ONLY: Errno.EPERM,
  BAD_ARGUMENT: Errno.EINVAL,
  OUT_OF_RANGE: Errno.EINVAL,
  DEVICE_FULL: Errno.ENOSPC,
  DEVICE_UNSUPPORTED: Errno.ENOTSUP,
  DEVICE_CLOSED: Errno.ESHUTDOWN,
};

/** What a client is told of a failure: where an error has no number of its own, EIO. */
export function errnoOfFailure(error: unknown): ErrorNumber {
  return (error instanceof CofferdamError ? errnos[error.code] : undefined) ?? Errno.EIO;
}

/** What a client is told in words: no more than the code, as messages name paths and peers of this machine. */
export function wordsOfFailure(error: unknown): string {
  return error instanceof CofferdamError ? `${error.code}: ${errorCodes[error.code]}` : 'internal error';
}
