/** What to do about an image that ends too early. */
export const truncationAdvice = 'copy it here again from where it is whole, or use another copy';

/**
 * What an image sits on: a growable file, or anything that is a BlockDevice.
 *
 * Reads past the end fail with IMAGE_TRUNCATED, other failures of reading with DEVICE_IO.
 */
export interface ImageStore extends AsyncDisposable {
  /** For messages. */
  readonly name: string;
  readonly writable: boolean;
  /** How far the image may grow, in bytes; Infinity for a file. */
  readonly capacityBytes: number;
  /** Where worker threads may read and write the image's bytes directly, if there is such a descriptor. */
  readonly fd: number | undefined;
  /** The size now. */
  sizeBytes(): Promise<number>;
  /** Fills the whole of `into`. */
  read(offsetBytes: number, into: Uint8Array): Promise<void>;
  /** @throws CofferdamError TARGET_FULL, TARGET_WRITE_FAILED */
  write(offsetBytes: number, bytes: Uint8Array): Promise<void>;
  /**
   * Makes everything written so far durable, through `fd` or not.
   *
   * @throws CofferdamError TARGET_WRITE_FAILED
   */
  sync(): Promise<void>;
  /** Gives back the space from `sizeBytes` on; absent where the size is fixed. */
  truncate?(sizeBytes: number): Promise<void>;
  close(): Promise<void>;
}
