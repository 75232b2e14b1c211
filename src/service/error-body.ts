import { CofferdamError, messageOf, type ErrorCode } from '../runtime/errors.js';
import type { ErrorBody } from './control-schema.js';

/** An error as it goes over the wire: never with a stack trace. */
export function bodyOfError(error: unknown): ErrorBody {
  if (!(error instanceof CofferdamError)) return { code: 'CONTROL_FAILED', message: messageOf(error) };
  const { code, message, device, offsetBytes, lengthBytes } = error;
  return { code, message, device, offsetBytes, lengthBytes };
}

/** The same error on the other side. */
export function errorOfBody({ code, message, device, offsetBytes, lengthBytes }: ErrorBody): CofferdamError {
  return new CofferdamError(code, message, {
    ...(device === undefined ? {} : { device }),
    ...(offsetBytes === undefined ? {} : { offsetBytes }),
    ...(lengthBytes === undefined ? {} : { lengthBytes }),
  });
}

const statuses: Partial<Record<ErrorCode, number>> = {
  BAD_ARGUMENT: 400,
  BAD_CONFIG: 400,
  UNKNOWN_DEVICE: 404,
  UNKNOWN_JOB: 404,
  UNKNOWN_SNAPSHOT: 404,
  UNKNOWN_FAULT: 404,
  FORBIDDEN: 401,
  TARGET_EXISTS: 409,
  EPOCH_STALE: 409,
  CUT_ABORTED: 409,
  CUT_VOID: 409,
  SNAPSHOT_BROKEN: 410,
};

/** The HTTP status that goes with an error. */
export function httpStatusOf(code: ErrorCode): number {
  return statuses[code] ?? 500;
}
