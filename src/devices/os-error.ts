import { CofferdamError, errnoOf, messageOf, type ErrorCode } from '../runtime/errors.js';
import type { ByteRange } from './byte-range.js';
import { folderFault } from './folder.js';

const openCodes: Readonly<Record<string, ErrorCode>> = {
  ENOENT: 'DEVICE_NOT_FOUND',
  ENOTDIR: 'DEVICE_NOT_FOUND',
  ENXIO: 'DEVICE_NOT_FOUND',
  ENODEV: 'DEVICE_NOT_FOUND',
  EBUSY: 'DEVICE_BUSY',
  ETXTBSY: 'DEVICE_BUSY',
  EEXIST: 'TARGET_EXISTS',
};

const fullErrnos = ['ENOSPC', 'EDQUOT', 'EFBIG'];

/** What a failed stat or open of a path becomes. */
export function openError(path: string, error: unknown): CofferdamError {
  const code = openCodes[errnoOf(error) ?? ''];
  if (code === undefined) return requestError(path, 'opening', error);
  const fault = code === 'DEVICE_NOT_FOUND' ? folderFault(path) : undefined;
  return (
    fault ??
    new CofferdamError(code, `${path}: cannot be opened: ${reasonOf(error)}`, { device: path, cause: error })
  );
}

/** Of Node's "ENOENT: no such file or directory, open '/some/path'" the reason; the path may be one that only we know. */
export function reasonOf(error: unknown): string {
  return messageOf(error).replace(/, \w+( '.*')?$/s, '');
}

/** What a failed request to the operating system, or to the core, becomes. */
export function requestError(
  device: string,
  what: string,
  error: unknown,
  range?: ByteRange,
): CofferdamError {
  if (error instanceof CofferdamError && error.device !== undefined) return error;
  const errno = errnoOf(error) ?? '';
  const full = fullErrnos.includes(errno);
  const code = error instanceof CofferdamError ? error.code : full ? 'DEVICE_FULL' : 'DEVICE_IO';
  // The core says itself what failed and where.
  const isCores = error instanceof CofferdamError;
  const place = range ? ` ${range.lengthBytes} bytes at ${range.offsetBytes}` : '';
  const failure = isCores ? error.message : `${what}${place} failed: ${reasonOf(error)}`;
  const advice = code === 'DEVICE_FULL' ? '; free space on the file system under it' : '';
  return new CofferdamError(code, `${device}: ${failure}${advice}`, {
    device,
    ...range,
    cause: error,
  });
}
