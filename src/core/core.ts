/**
 * The copy core: all work that touches every byte. There are two of them, `native` (Rust) and `portable` (Node and
 * WebAssembly), which give the same bytes; one test suite runs against both. A core holds no policy and no state: what
 * to copy, when to stop and what a failure means is decided by its callers.
 */
export type CoreName = 'native' | 'portable';

export type HashAlgorithm = 'xxh64' | 'blake3';

/** Length of a hash in bytes. xxh64 is kept in its canonical, big-endian form. */
export const hashLengthBytes: Readonly<Record<HashAlgorithm, number>> = { xxh64: 8, blake3: 32 };

/** What became of a block in a copy job; the same numbers are used by the native core. */
export const BlockState = {
  /** Not selected, or not reached. */
  Skipped: 0,
  /** All zeros: nothing is stored. */
  Zero: 1,
  /** Stored: its offset and hash are filled in. */
  Stored: 2,
  /** A pre-image exists, so what the device holds is newer than the cut. The caller copies the pre-image. */
  Preserved: 3,
} as const;

/** What a check found wrong with a stored block; the same numbers are used by the native core. */
export const BlockFault = {
  None: 0,
  /** The bytes do not match the hash. */
  Mismatch: 1,
  /** The bytes could not be read, or the image ends before them. */
  Unreadable: 2,
} as const;

/**
 * Copy blocks [firstBlock, firstBlock + blockCount) of a device into an image. Per block: read, look at `preserved`
 * again, test for zero, hash, append to a segment; segments are written at offsets taken from `cursor`.
 *
 * All typed arrays are over shared memory. The arrays of results have one entry per block of the job.
 */
export interface CopyJob {
  /**
   * `fd`: the device; byte n of the file is byte n of the device, holes are skipped. `bytes`: the content of exactly
   * the blocks of this job, already read.
   */
  source: { fd: number } | { bytes: Uint8Array };
  /** Size of the whole device in bytes; the last block may be shorter than the others. */
  deviceSizeBytes: number;
  /** A power of two from 4 KiB to 4 MiB. */
  blockSizeBytes: number;
  firstBlock: number;
  blockCount: number;
  algorithm: HashAlgorithm;
  /** Device-wide bitmap of the blocks wanted. Absent: all of them. Others are left `Skipped`. */
  selected?: Int32Array<SharedArrayBuffer> | undefined;
  /** Device-wide bitmaps of copy-before-write. Absent: the source does not change during the job. */
  preserved?: Int32Array<SharedArrayBuffer> | undefined;
  copied?: Int32Array<SharedArrayBuffer> | undefined;
  /** One word that must not be zero after each read: the barrier under which the source is held. */
  barrier?: Int32Array | undefined;
  /**
   * `fd`: the image; segments are written to it. `bytes`: stored blocks are put here one after the other and
   * `offsets` count from its start; it has room for all blocks of the job.
   */
  sink: { fd: number } | { bytes: Uint8Array };
  /** One word: the next free byte of the image. Segments are taken from it in whole multiples of 4096 bytes. */
  cursor: BigInt64Array;
  /** The image may not grow beyond this offset. */
  capacityBytes: number;
  /** One word; not zero means stop at the next run of blocks. */
  cancel: Int32Array;
  /**
   * Two words that count up while the job runs: bytes of the blocks dealt with, that is `Zero` or about to be `Stored`;
   * bytes read (no holes).
   */
  progress: BigInt64Array;
  /** Results: a {@link BlockState} per block; what a job that ended early did not store is `Skipped`. */
  states: Uint8Array;
  /** Results: where the block was put, in bytes; only for `Stored`. */
  offsets: Float64Array;
  /** Results: the hashes one after the other; only for `Stored`. */
  hashes: Uint8Array;
}

/** Why a job ended. Failures are thrown instead. */
export type JobEnd = 'done' | 'cancelled' | 'barrier-lost';

export interface CopyResult {
  end: JobEnd;
  /** Bytes of block data that were stored, without alignment. */
  storedBytes: number;
}

/**
 * Check stored blocks against their hashes and, with a target, write them out. Blocks whose state is `Stored` are read
 * from the image; `Zero` blocks are made zero on the target when it may hold something else.
 */
export interface RestoreJob {
  imageFd: number;
  /** The file or block device to write to. Absent: check only. */
  targetFd?: number | undefined;
  /** Whether the target may hold something other than zeros where the device holds zeros. */
  zeroTarget: boolean;
  deviceSizeBytes: number;
  blockSizeBytes: number;
  firstBlock: number;
  blockCount: number;
  algorithm: HashAlgorithm;
  states: Uint8Array;
  offsets: Float64Array;
  hashes: Uint8Array;
  cancel: Int32Array;
  /** Two words that count up: bytes of the `Zero` and `Stored` blocks dealt with; bytes read from the image. */
  progress: BigInt64Array;
  /** Results: a {@link BlockFault} per block. A faulty block is not written to the target. */
  faults: Uint8Array;
}

/** Size and sector sizes of a block special file, in bytes. */
export interface BlockGeometry {
  sizeBytes: number;
  logicalSectorBytes: number;
}

/**
 * Errors are CofferdamErrors: SOURCE_READ_FAILED, SOURCE_SHRUNK, TARGET_FULL, TARGET_WRITE_FAILED from jobs, DEVICE_IO,
 * DEVICE_FULL or DEVICE_UNSUPPORTED from the others, BAD_ARGUMENT from both. Offset and length are filled in, the device
 * is not. They are offsets on the device, or in the image for the TARGET_ errors of a copy.
 */
export interface Core {
  readonly name: CoreName;

  hash(algorithm: HashAlgorithm, bytes: Uint8Array): Uint8Array;
  isZero(bytes: Uint8Array): boolean;

  /** Blocks the calling thread until the job ends: call it on a worker thread. */
  copy(job: CopyJob): CopyResult;
  /** Blocks the calling thread until the job ends: call it on a worker thread. */
  restore(job: RestoreJob): JobEnd;

  /**
   * Locks a whole open file against other openers of any process until the descriptor is closed (an open file
   * description lock, fcntl(2)).
   *
   * @returns `locked`, `busy` if someone else holds it, or `unsupported` where there are no such locks.
   */
  lock(fd: number, mode: 'shared' | 'exclusive'): 'locked' | 'busy' | 'unsupported';
  /** @param path of the block special file that `fd` is open on. */
  blockGeometry(fd: number, path: string): BlockGeometry;
  /**
   * Makes a range of a file or block special file read as zeros, giving up its space where `mayTrim`.
   *
   * @returns false if there is no way cheaper than writing zeros; nothing was done then.
   */
  zeroRange(fd: number, offsetBytes: number, lengthBytes: number, mayTrim: boolean): Promise<boolean>;
  /** Gives the space of a range back (hole, discard). False if it cannot; nothing was done then. */
  discard(fd: number, offsetBytes: number, lengthBytes: number): Promise<boolean>;
  /** Start and end offsets of data in [offset, offset + length), in order: [start, end, start, end, ...]. */
  dataRanges(fd: number, offsetBytes: number, lengthBytes: number): Float64Array;

  /**
   * Reads those places of a batch that the page cache has, without waiting for a medium, and sets their bytes in `done`
   * to 1. A core that cannot do so reads none.
   */
  readCached(fd: number, batch: Batch, done: Uint8Array): void;
  /** Writes the places of batches, one after the other; the first failure ends it. Nobody changes their bytes meanwhile. */
  write(fd: number, batches: readonly Batch[]): Promise<void>;

  /**
   * Serves the transmission phase of an NBD connection on a thread of its own, which answers plain reads and writes and
   * hands everything else over; absent in cores that cannot.
   *
   * @param onEvent called on this thread, with one of {@link NativeEvent}.
   */
  readonly serveConnection?: ServeConnection | undefined;
  /** Copy-before-write that such threads take part in; absent in cores that cannot. */
  readonly newWatch?: (() => NativeWatch) | undefined;
}

/** The live snapshots of a device, for the threads of its connections. */
export interface NativeWatch {
  /**
   * Begins a snapshot of what the device holds now, while nothing changes it. Once this has returned, no thread changes it
   * without having saved what was there.
   */
  begin(snapshot: WatchedSnapshot): NativePreImages;
}

/**
 * A snapshot; its words, and the device, stay until {@link NativePreImages.close}, and what was asked for before that, has
 * resolved.
 */
export interface WatchedSnapshot {
  deviceFd: number;
  deviceSizeBytes: number;
  blockSizeBytes: number;
  /** Per block: whether a unit of it is saved. */
  preserved: Int32Array<SharedArrayBuffer>;
  /** Per block: whether its content as of the snapshot is not wanted any more. */
  copied: Int32Array<SharedArrayBuffer>;
  /** Per unit of 4 KiB: whether its pre-image is kept, or was until its block was copied. */
  saved: Int32Array<SharedArrayBuffer>;
  /** How many bytes of pre-images are kept in memory, and how many in a file without a name in `directory`. */
  memoryBytes: number;
  spillBytes: number;
  directory: string;
}

/** What was on a device where it was changed since a snapshot. */
export interface NativePreImages {
  /** Saves what is needed of a range that is about to change, if that takes no waiting. */
  preserveNow(offsetBytes: number, lengthBytes: number): boolean;
  /**
   * The same, whatever it takes.
   *
   * @throws CofferdamError TARGET_FULL at the limits, SNAPSHOT_BROKEN if the file cannot be used, DEVICE_IO.
   */
  preserve(offsetBytes: number, lengthBytes: number): Promise<void>;
  /**
   * Puts what was saved over what was read from the device. What it puts there for blocks that are copied when it
   * resolves means nothing.
   *
   * @throws CofferdamError SNAPSHOT_BROKEN
   */
  restore(offsetBytes: number, into: Uint8Array): Promise<void>;
  /** Gives up what was saved of blocks that are marked as copied. */
  free(firstBlock: number, blockCount: number): void;
  /** From now on nothing is saved. */
  end(): void;
  /** Ends it, and resolves when no thread of a connection uses it any more. */
  close(): Promise<void>;
  /** How many writes went past JavaScript while this saw to them. */
  readonly passed: number;
}

export type ServeConnection = (
  job: ConnectionJob,
  onEvent: (event: number, bytes: Buffer | null) => void,
) => NativeConnection;

/** A connection in transmission and the device behind it. */
export interface ConnectionJob {
  /** The connection keeps a descriptor of its own. */
  socketFd: number;
  deviceFd: number;
  sizeBytes: number;
  readOnly: boolean;
  structuredReplies: boolean;
  /** The gate to the device; it is kept until {@link NativeEvent} `Closed`. */
  gate: Int32Array<SharedArrayBuffer>;
  /** Who has to see every change; absent where the gate is shut while anybody has to. */
  watch?: NativeWatch | undefined;
  /** What the client has sent and someone else has received already. */
  received: Uint8Array;
}

/** What the thread of a connection tells; the same numbers are used by the native core. */
export const NativeEvent = {
  /** Bytes that the client has sent, whole requests in their order. They are to be `consumed`. */
  Handed: 0,
  /** All replies that it was given are sent; after `end`, that everything is. */
  Sent: 1,
  /** The client sends no more. */
  End: 2,
  /** The last request has left a way of the gate that it found shut. */
  Left: 3,
  /** The thread has ended; the connection is to be closed. Nothing comes after it. */
  Closed: 4,
} as const;

export interface NativeConnection {
  /** Whole replies, to be sent in this order. */
  send(replies: readonly Uint8Array[]): void;
  /** So many of the bytes that were handed over take no memory any more, so more may come. */
  consumed(count: number): void;
  /** Begins no further request. */
  refuse(): void;
  /** Ends this side of the connection once everything is sent. */
  end(): void;
  /** Ends the connection at once. No request is let in by a gate that is opened after this has returned. */
  cut(): void;
  /** Cuts it and gives up what was open for it. */
  close(): void;
}

/** Requests of one kind whose bytes lie in one buffer. */
export interface Batch {
  readonly bytes: Uint8Array;
  /**
   * Three numbers per request: offset on the device, offset in `bytes`, length; all in bytes. The requests do not
   * overlap in `bytes`.
   */
  readonly places: Float64Array;
}
