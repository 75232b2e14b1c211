import type { BlockDevice, NativeSource } from '../devices/block-device.js';

/**
 * What a coordinator may ask of a storage server. A server in this process and one behind a network answer alike, so
 * the coordinator does not know which it has.
 *
 * Calls may be repeated: a `release` of an epoch already released answers as the first one did.
 */
export interface ServerControl {
  readonly id: string;
  /** Size of the server's device in bytes. */
  readonly sizeBytes: number;
  /**
   * What the device's bytes lie on, as far as it is known: two lists that share an entry share bytes. A backup uses it
   * to refuse a target that is also a source.
   */
  readonly identities: readonly string[];

  status(): Promise<ServerStatus>;

  /**
   * Raises the barrier, drains the writes already admitted, fixes the contents and confirms. From the moment of the
   * call every later write, trim and write-zeroes is parked.
   *
   * @throws CofferdamError EPOCH_STALE if `epoch` is not higher than any seen before; CUT_ABORTED if the barrier came
   * down (release, lease, newer epoch, power cut) before the drain ended; CUT_VOID if changes since
   * `changedSinceEpoch` are not known.
   */
  cut(request: CutRequest): Promise<CutConfirmation>;

  /**
   * Lets the barrier of `ticket` stay up for `leaseMs` from now.
   *
   * @throws CofferdamError EPOCH_STALE if that barrier is not up any more.
   */
  renew(ticket: CutTicket, leaseMs: number): Promise<void>;

  /** Stops noting changes since the cut of `epoch`. Nothing happens if that ended already. */
  stopTracking(epoch: number): Promise<void>;

  /** Lowers the barrier of `ticket`, admits what was parked in order, and says whether the cut can be trusted. */
  release(ticket: CutTicket): Promise<ReleaseAnswer>;
}

/** Names one cut. */
export interface CutTicket {
  /** Higher than every epoch a server has seen before. */
  epoch: number;
  /**
   * Unique to whoever asks for the cut. Two coordinators may arrive at the same epoch; a server serves the first, and
   * the other must not be able to bring that one's barrier down.
   */
  coordinator: string;
}

export interface CutRequest extends CutTicket {
  /** The barrier comes down by itself after this long. */
  leaseMs: number;
  /**
   * What fixes the contents. `barrier`: the barrier alone, so they hold only until it is released. `snapshot`:
   * copy-before-write, so they hold until the source is closed.
   */
  fixedBy: 'barrier' | 'snapshot';
  /** Unit of copy-before-write and of change tracking, in bytes. A power of two from 4 KiB to 4 MiB. */
  blockSizeBytes: number;
  /** Note from this instant on which blocks change, until a later cut collects them or `stopTracking`. */
  trackChanges?: boolean;
  /**
   * Fix only the blocks that changed since the cut of that epoch, which asked for `trackChanges`. The source says which
   * these are.
   */
  changedSinceEpoch?: number;
}

export interface CutConfirmation {
  epoch: number;
  /** The contents as of the cut. The receiver closes it. */
  source: CutSource;
}

/** A device's contents as of a cut. */
export interface CutSource extends AsyncDisposable {
  /** The contents, read-only. */
  readonly device: BlockDevice;
  /** Set where worker threads of this process may read the device directly, under the rules of `marks`. */
  readonly native: NativeCutSource | undefined;
  /** The blocks that the cut was asked to fix: all of them, or those that changed. One bit per block. */
  readonly selected: Int32Array<SharedArrayBuffer> | undefined;
  /** Tells copy-before-write that these blocks have been copied, so they need no pre-image from now on. */
  markCopied(firstBlock: number, blockCount: number): void;
  /**
   * Succeeds only if everything read from this source so far is as of the cut.
   *
   * @throws CofferdamError SNAPSHOT_BROKEN, CUT_VOID
   */
  assertIntact(): Promise<void>;
  close(): Promise<void>;
}

export interface NativeCutSource extends NativeSource {
  /** Bitmaps of copy-before-write; absent when the barrier alone fixes the contents. */
  readonly marks:
    { preserved: Int32Array<SharedArrayBuffer>; copied: Int32Array<SharedArrayBuffer> } | undefined;
  /** One word that is zero once the barrier that fixes the contents has come down; absent with a snapshot. */
  readonly barrier: Int32Array<SharedArrayBuffer> | undefined;
}

export interface ReleaseAnswer {
  /** True only if the barrier was up without a break from the cut's confirmation until this release. */
  heldWithoutBreak: boolean;
  /** Why not, when not. */
  reason?: string;
  /** Time from raising the barrier until it came down, in ms. */
  holdMs: number;
  /** Requests that were parked meanwhile. */
  parkedRequests: number;
  /** The longest that one of them waited, in ms. */
  longestParkMs: number;
}

export interface ServerStatus {
  id: string;
  barrierUp: boolean;
  /** The highest epoch seen; 0 before the first. */
  epoch: number;
  /** Writes, trims and write-zeroes admitted and not yet finished. */
  inFlight: number;
  /** Requests waiting for the barrier. */
  parked: number;
  /** Snapshots that are live. */
  snapshots: number;
}
