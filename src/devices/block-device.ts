import type { Batch, NativeWatch } from '../core/core.js';
import { CofferdamError, type ErrorDetails } from '../runtime/errors.js';

/**
 * A thing that holds bytes at offsets. Everything that does so in cofferdam is one of these, so anything can stand
 * behind a server, be copied, compared or judged.
 *
 * The contract, which one conformance suite checks for every kind of device:
 *
 * - Requests may overlap in time. Requests that overlap in time and in range may be applied in any order, sector by
 *   sector. A request that was sent after another was answered sees all of it.
 * - A write that was answered is read back from then on, flushed or not. It survives a power cut once a later flush,
 *   or the write itself with `fua`, was answered.
 * - A request of zero bytes succeeds and does nothing.
 * - A request that reaches past the end fails with OUT_OF_RANGE before it touches anything.
 * - A write that fails may have been applied in part, whole sectors at a time.
 * - `close` waits for the requests in flight; what is sent after it fails with DEVICE_CLOSED. It may be called again.
 *   It does not flush: closing is not a promise of durability.
 */
export interface BlockDevice extends AsyncDisposable {
  /** What this device is, for messages: a path, or a kind and what it is made of. */
  readonly name: string;
  /** Size in bytes; it never changes. Any whole number from 0 to 2^53-1. */
  readonly sizeBytes: number;
  readonly capabilities: Capabilities;
  /** Where worker threads may read the bytes behind this device's back, if there is such a place. */
  readonly nativeSource: NativeSource | undefined;

  /** Fills the whole of `into` with the bytes from `offsetBytes` on. */
  read(offsetBytes: number, into: Uint8Array): Promise<void>;
  /** Writes the whole of `bytes`. The caller leaves `bytes` alone until the promise settles. */
  write(offsetBytes: number, bytes: Uint8Array, options?: WriteOptions): Promise<void>;
  /** Makes every write that was answered before this call durable. */
  flush(): Promise<void>;
  /** Says that the content of a range no longer matters. It reads back as anything until it is written again. */
  trim(offsetBytes: number, lengthBytes: number): Promise<void>;
  /** Makes a range read as zeros. */
  writeZeroes(offsetBytes: number, lengthBytes: number, options?: WriteZeroesOptions): Promise<void>;
  /**
   * Where there is data and where zeros: extents that cover exactly the range asked for, in order, without gaps.
   * A device that cannot tell answers one extent of kind `data`. A `zero` extent reads as zeros; a `data` extent
   * may.
   */
  allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]>;
  close(): Promise<void>;

  /**
   * Reads those of a batch that need wait for nothing, at once, before it returns. For callers with many small requests;
   * absent where nothing can be read so.
   *
   * @param done one byte per place: set to 1 where the read was done. The others are to be asked for with `read`, and so
   * are all when this throws.
   */
  readonly readNow?: ((batch: Batch, done: Uint8Array) => void) | undefined;
  /**
   * The writes of some batches, in any order, none of them with `fua`; absent where they had better be sent one by one.
   * When it fails, any of them may have been applied, and `write` tells which of them fail and why.
   */
  readonly writeBatch?: ((batches: readonly Batch[]) => Promise<void>) | undefined;
  /** How native threads may read and write past this device's methods; absent where they may not. */
  readonly nativePath?: NativePath | undefined;
}

export interface WriteOptions {
  /** Force unit access: the write is durable when it is answered. Default false. */
  fua?: boolean;
}

export interface WriteZeroesOptions extends WriteOptions {
  /** Whether the range may become a hole. Default true. */
  mayTrim?: boolean;
}

export interface Extent {
  offsetBytes: number;
  lengthBytes: number;
  kind: 'data' | 'zero';
}

/** A file descriptor of this process on which byte n is byte n of the device, as of the last answered write. */
export interface NativeSource {
  readonly fd: number;
  /** Whether a write to the descriptor is all that a write to the device is. Default false. */
  readonly takesWrites?: boolean;
  /** Through which native threads that write to it learn what they have to preserve; absent where they cannot. */
  readonly watch?: NativeWatch | undefined;
}

/** A way past JavaScript for plain reads and writes, whose gate says when it is open. */
export interface NativePath {
  /** On which byte n is byte n of the device. It may only be used while the gate lets a request in. */
  readonly fd: number;
  /** Four words: changes are shut out if not 0, changes inside, reads are shut out if not 0, reads inside. */
  readonly gate: Int32Array<SharedArrayBuffer>;
  /** Who has to see every change that is made this way while the gate lets changes in. */
  readonly watch?: NativeWatch | undefined;
  /** To be called after the last request has left a way that it found shut. */
  readonly left: () => void;
}

/**
 * What a device can do. Each device states its own, with the reason for each answer beside it.
 */
export interface Capabilities {
  /** Writes, trims and write-zeroes are refused with READ_ONLY. */
  readonly readOnly: boolean;
  /** `fua` costs less than a flush of everything. It is honoured in any case. */
  readonly fua: boolean;
  /** `trim` gives space back. Where false it succeeds and does nothing. */
  readonly trim: boolean;
  /** `writeZeroes` costs less than writing zeros. It works in any case. */
  readonly fastZero: boolean;
  /** A flush covers what other openers of the same bytes had answered before it. */
  readonly multiConnection: boolean;
  /** Requests aligned to and multiples of this many bytes are served without reading around them. */
  readonly preferredBlockBytes: number;
}

export type Operation = 'read' | 'write' | 'trim' | 'write zeroes' | 'allocation';

/**
 * Every device calls this first, so that they all refuse the same requests with the same codes.
 *
 * @throws CofferdamError BAD_ARGUMENT, OUT_OF_RANGE, READ_ONLY
 */
export function checkRequest(
  device: Pick<BlockDevice, 'name' | 'sizeBytes' | 'capabilities'>,
  operation: Operation,
  offsetBytes: number,
  lengthBytes: number,
): void {
  const details: ErrorDetails = { device: device.name, offsetBytes, lengthBytes };
  if (
    !Number.isSafeInteger(offsetBytes) ||
    !Number.isSafeInteger(lengthBytes) ||
    offsetBytes < 0 ||
    lengthBytes < 0
  ) {
    throw new CofferdamError(
      'BAD_ARGUMENT',
      `${device.name}: ${operation} of ${lengthBytes} bytes at ${offsetBytes}: both must be whole numbers from 0 to 2^53-1`,
      details,
    );
  }
  // Compared by subtraction, so that the sum can never leave the safe integers.
  if (offsetBytes > device.sizeBytes || lengthBytes > device.sizeBytes - offsetBytes) {
    throw new CofferdamError(
      'OUT_OF_RANGE',
      `${device.name}: ${operation} of ${lengthBytes} bytes at ${offsetBytes} reaches past the end at ${device.sizeBytes}`,
      details,
    );
  }
  if (device.capabilities.readOnly && operation !== 'read' && operation !== 'allocation') {
    throw new CofferdamError(
      'READ_ONLY',
      `${device.name}: ${operation} refused, the device is read-only`,
      details,
    );
  }
}

/** Appends an extent to a list, merging it with the last one where they are of one kind. */
export function appendExtent(extents: Extent[], extent: Extent): void {
  if (extent.lengthBytes === 0) return;
  const last = extents.at(-1);
  if (last && last.kind === extent.kind && last.offsetBytes + last.lengthBytes === extent.offsetBytes) {
    last.lengthBytes += extent.lengthBytes;
  } else {
    extents.push({ ...extent });
  }
}
