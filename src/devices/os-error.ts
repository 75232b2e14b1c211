import { CofferdamError, errnoOf, messageOf, type ErrorCode } from '../runtime/errors.js';
import type { ByteRange } from './byte-range.js';

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
  return code === undefined
    ? requestError(path, 'opening', error)
    : new CofferdamError(code, `${path}: cannot be opened: ${messageOf(error)}`, {
        device: path,
        cause: error,
      });
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
  const place = range ? ` ${range.lengthBytes} bytes at ${range.offsetBytes}` : '';
  const advice = code === 'DEVICE_FULL' ? '; free space on the file system under it' : '';
  return new CofferdamError(code, `${device}: ${what}${place} failed: ${messageOf(error)}${advice}`, {
    device,
    ...range,
    cause: error,
  });
}
