/**
 * Every failure that a caller may want to tell apart has a code here. Codes are stable: match on them. Messages
 * may change between releases.
 */
export const errorCodes = {
  // Use
  BAD_ARGUMENT: 'an argument or option is outside what is allowed',
  BAD_CONFIG: 'a cluster configuration is not valid',
  DUPLICATE_DEVICE: 'two devices were given the same ID',
  UNKNOWN_DEVICE: 'no device with this ID',
  UNKNOWN_GENERATION: 'no generation with this number',
  TARGET_EXISTS: 'the target holds data and was not forced',
  SOURCE_IS_TARGET: 'the same file or device was given as source and target',

  // Devices
  DEVICE_NOT_FOUND: 'the file or device does not exist',
  DEVICE_BUSY: 'the file or device is locked, mounted or held exclusively by someone else',
  DEVICE_CLOSED: 'the device was closed',
  DEVICE_IO: 'the operating system reported an I/O error',
  DEVICE_FULL: 'the medium under the device has no space left',
  DEVICE_UNSUPPORTED: 'the device or platform cannot do this',
  READ_ONLY: 'a write, trim or write-zeroes reached a read-only device',
  OUT_OF_RANGE: 'a request reaches past the end of the device',
  INJECTED_FAULT: 'a fault that a test injected',
  POWER_CUT: 'the emulated power was cut while the request was in flight',

  // The network
  UNKNOWN_EXPORT: 'the NBD server has no export of this name, or refuses it',
  CONNECTION_FAILED: 'the server could not be reached',
  CONNECTION_LOST: 'the connection was lost while the request was in flight; its outcome is unknown',
  PROTOCOL_ERROR: 'the other side does not keep to the protocol',
  CONTROL_FAILED: 'a control request could not be carried out',
  UNKNOWN_JOB: 'no backup job with this number',
  UNKNOWN_SNAPSHOT: 'no snapshot of this name',
  UNKNOWN_FAULT: 'no injected fault with this number',
  FORBIDDEN: 'the control API was called without its token',

  // The cut
  EPOCH_STALE: 'the epoch is not higher than the last one this server saw',
  CUT_ABORTED: 'the barrier came down before the cut was confirmed',
  CUT_VOID: 'a barrier was not held without a break, so the cut proves nothing',
  STALL_BUDGET_EXCEEDED: 'the barriers would have been up longer than allowed',
  SNAPSHOT_BROKEN: 'a snapshot ran out of space for pre-images',
  CANCELLED: 'the caller cancelled the operation',

  // Copying
  SOURCE_READ_FAILED: 'a source block could not be read',
  SOURCE_SHRUNK: 'a source became smaller while it was copied',
  TARGET_FULL: 'the target has no space left',
  TARGET_WRITE_FAILED: 'the target could not be written',
  TARGET_TOO_SMALL: 'the target of a restore is smaller than the device',

  // Overlays
  NOT_AN_OVERLAY: 'this is not an overlay of the device it is laid over',
  OVERLAY_CORRUPT: 'the map of an overlay fails its checksum',

  // The image
  NOT_AN_IMAGE: 'this is not a cofferdam backup image',
  IMAGE_VERSION: 'the image was written by a newer version of the format',
  IMAGE_TRUNCATED: 'the image ends before data that it refers to',
  IMAGE_CORRUPT: 'metadata in the image fails its checksum or makes no sense',
  IMAGE_UNINITIALISED: 'a block device must be initialised before it can hold an image',
  BLOCK_CORRUPT: 'a stored block does not match its hash',

  // The witness
  BAD_HISTORY: 'a witness history cannot be read',
  COMMAND_FAILED: 'the command that was to take a copy failed',
  NOT_CONSISTENT: 'the witness proved that a copy is not crash-consistent',

  // The simulator
  SIMULATION_FAILED: 'a simulated run broke an invariant or did not come to an end',
} as const;

export type ErrorCode = keyof typeof errorCodes;

export interface ErrorDetails {
  /** ID or path of the device that the failure is about. */
  device?: string;
  /** First byte of the range the failure is about, within `device`. */
  offsetBytes?: number;
  /** Length of that range in bytes. */
  lengthBytes?: number;
  cause?: unknown;
}

/** The one error class of this project. `code` is stable, `message` says what happened and what to do. */
export class CofferdamError extends Error {
  override readonly name = 'CofferdamError';
  readonly code: ErrorCode;
  readonly device: string | undefined;
  readonly offsetBytes: number | undefined;
  readonly lengthBytes: number | undefined;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.device = details.device;
    this.offsetBytes = details.offsetBytes;
    this.lengthBytes = details.lengthBytes;
  }
}

/** Whether `error` is a {@link CofferdamError}, of this code when one is given. */
export function isCofferdamError(error: unknown, code?: ErrorCode): error is CofferdamError {
  return error instanceof CofferdamError && (code === undefined || error.code === code);
}

/** Stops the program on a state that cannot happen. A failure here is a bug in cofferdam, never bad input. */
export function invariant(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(`cofferdam invariant broken: ${message}`);
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The errno name of a failed system call (`ENOSPC`, `EBUSY`, ...), or undefined. */
export function errnoOf(error: unknown): string | undefined {
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') return error.code;
  return undefined;
}
