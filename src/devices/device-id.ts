import { CofferdamError } from '../runtime/errors.js';

/** IDs become file names, so nothing that is a path, hidden, or looks like an option. */
export const deviceIdPattern = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$/;

/** The rule in words, for messages. */
export const deviceIdRule = 'use 1 to 64 of A-Z a-z 0-9 . _ - and begin with none of . and -';

/** @throws CofferdamError BAD_ARGUMENT if `id` cannot name a device. */
export function checkDeviceId(id: string): string {
  if (!deviceIdPattern.test(id)) {
    throw new CofferdamError('BAD_ARGUMENT', `${JSON.stringify(id)} cannot name a device: ${deviceIdRule}`);
  }
  return id;
}
