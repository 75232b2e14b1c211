import { SharedBitmap } from '../core/bitmap.js';
import type { BlockDevice } from '../devices/block-device.js';
import type { ByteRange } from '../devices/byte-range.js';
import type { VolatileCacheDevice } from '../devices/volatile-cache.js';
import { realClock, type Clock } from '../runtime/clock.js';
import { CofferdamError } from '../runtime/errors.js';
import { WriteBarrier, type Hold } from './barrier.js';
import type {
  CutConfirmation,
  CutRequest,
  CutSource,
  CutTicket,
  ReleaseAnswer,
  ServerControl,
  ServerStatus,
} from './control.js';
import { HeldSource } from './held-source.js';
import { Shut } from './native-gate.js';
import { limitsOf, type PreImageLimits } from './pre-image-limits.js';
import { ServedDevice } from './served-device.js';
import { Snapshot } from './snapshot.js';

export interface StorageServerOptions {
  /** Names the server and its device in backups: 1 to 64 of A-Z a-z 0-9 . _ - and not starting with . or -. */
  id: string;
  /** The device it is paired with. The server owns it from now on and closes it. */
  device: BlockDevice;
  /** The volatile cache in the device's stack, if there is one: what a power cut empties. */
  cache?: VolatileCacheDevice | undefined;
  /** See {@link ServerControl.identities}. */
  identities?: readonly string[];
  preImages?: PreImageLimits;
  clock?: Clock;
}

/**
 * A storage server: one block device, one write barrier. Clients reach the device through {@link client}, coordinators
 * through the {@link ServerControl} calls.
 *
 * Invariants:
 * 1. Every write, trim and write-zeroes takes the steps of `#change`, in that order; nothing else changes the device but
 *    writes of native threads, which pass a gate (`native-gate.ts`). They take step 2 themselves, and the gate is shut while
 *    any other of the steps has work to do.
 * 2. Contents are fixed only while the barrier is up and nothing is in flight.
 * 3. After a power cut nothing that was sent before it reaches the device any more.
 */
export class StorageServer implements ServerControl, AsyncDisposable {
  readonly id: string;
  readonly identities: readonly string[];
  /** The device as its clients see it. Closing it leaves the server as it is. */
  readonly client: BlockDevice;
  readonly #device: BlockDevice;
  readonly #cache: VolatileCacheDevice | undefined;
  readonly #clock: Clock;
  readonly #barrier: WriteBarrier;
  readonly #preImages: PreImageLimits;
  readonly #snapshots = new Set<Snapshot>();
  readonly #trackers = new Map<number, ChangeTracker>();
  /** Counts power cuts, so that a request can tell that one came between its start and its end. */
  #boots = 0;
  #down: CofferdamError | undefined;

  /** @throws CofferdamError BAD_ARGUMENT for limits that are not whole numbers of bytes. */
  constructor(options: StorageServerOptions) {
    this.id = options.id;
    this.identities = options.identities ?? [];
    this.#device = options.device;
    this.#cache = options.cache;
    this.#clock = options.clock ?? realClock;
    // Checked now, not under the barrier of a cut.
    this.#preImages = limitsOf(options.preImages ?? {});
    this.#barrier = new WriteBarrier(options.id, this.#clock);
    this.client = this.newClient();
  }

  /** Another view of the device as its clients see it, for someone who closes it. */
  newClient(): BlockDevice {
    return new ServedDevice(this.id, this.#device, {
      answer: (request) => this.#answer(request),
      answerNow: (request) => {
        this.#assertUp();
        request();
      },
      change: (ranges, apply) => this.#change(ranges, apply),
      native: this.#barrier.gate,
    });
  }

  get sizeBytes(): number {
    return this.#device.sizeBytes;
  }

  status(): Promise<ServerStatus> {
    return Promise.resolve({
      id: this.id,
      barrierUp: this.#barrier.up,
      epoch: this.#barrier.epoch,
      inFlight: this.#barrier.inFlight,
      parked: this.#barrier.parked,
      snapshots: this.#snapshots.size,
    });
  }

  async cut(request: CutRequest): Promise<CutConfirmation> {
    this.#assertUp();
    Snapshot.checkBlockSize(request.blockSizeBytes);
    // 1. Raise: from here on every later write is parked.
    const hold = this.#barrier.raise(request, request.leaseMs);
    // 2. Drain: writes admitted before are finished, so the contents do not move any more.
    await this.#barrier.drained(hold);
    // 3. Fix the contents, in the same turn in which the barrier is seen up and nothing in flight.
    this.#barrier.confirm(hold);
    const source = this.#fixContents(request, hold);
    if (request.trackChanges) {
      this.#trackers.set(request.epoch, new ChangeTracker(this.sizeBytes, request.blockSizeBytes));
    }
    // 4. Shut the gate for those who watch from now on, in the same turn, so while the barrier is up.
    this.#watch();
    // 5. Confirm.
    return { epoch: request.epoch, source };
  }

  async renew(ticket: CutTicket, leaseMs: number): Promise<void> {
    this.#barrier.renew(ticket, leaseMs);
  }

  async release(ticket: CutTicket): Promise<ReleaseAnswer> {
    return this.#barrier.release(ticket);
  }

  stopTracking(epoch: number): Promise<void> {
    this.#trackers.delete(epoch);
    this.#watch();
    return Promise.resolve();
  }

  /** Voids the cut whose barrier is up, if one is, and lets go on what it parked: the service ends. */
  breakCut(reason: string): void {
    this.#barrier.break(reason);
  }

  /**
   * The emulated power goes out and comes back. Requests in flight or parked fail with POWER_CUT, the barrier is down,
   * snapshots and change tracking are gone, and a volatile cache keeps a random subset of its unflushed sectors.
   *
   * @param options.seed decides which sectors survive.
   */
  async powerCut(options: { seed: number }): Promise<void> {
    this.#assertUp();
    const lost = this.#powerCutError();
    this.#setDown(lost);
    this.#boots++;
    this.#barrier.reset('the server lost its power', lost);
    for (const snapshot of this.#snapshots) snapshot.break('the server lost its power');
    this.#trackers.clear();
    this.#watch();
    try {
      // A request that the device is still busy with must not reach it, or its cache, after the power is back.
      await this.#barrier.idle();
      await this.#barrier.gate.idle();
      await this.#cache?.powerCut(options);
    } finally {
      // A server that was closed meanwhile stays so.
      if (this.#down === lost) this.#setUp();
    }
  }

  async close(): Promise<void> {
    const closed = new CofferdamError('DEVICE_CLOSED', `server ${this.id} was closed`, { device: this.id });
    this.#setDown(closed);
    this.#barrier.reset('the server was closed', closed);
    await Promise.all([...this.#snapshots].map((snapshot) => snapshot.close()));
    // The device knows nothing of native requests that are still busy with its descriptor.
    await this.#barrier.gate.idle();
    await this.#device.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** The path of every write, trim and write-zeroes, and of writes that are sent together. */
  async #change(ranges: readonly ByteRange[], apply: () => Promise<void>): Promise<void> {
    this.#assertUp();
    // 1. Admission: while the barrier is up the request waits here, before it has touched anything.
    await this.#barrier.admit(async () => {
      const boot = this.#boots;
      try {
        // 2. Copy-before-write for every live snapshot, before the device changes.
        for (const snapshot of this.#snapshots) {
          for (const { offsetBytes, lengthBytes } of ranges)
            await snapshot.preserve(offsetBytes, lengthBytes);
        }
        // 3. Change tracking, before the device changes, so that a failed write counts as a change too.
        for (const tracker of this.#trackers.values()) {
          for (const { offsetBytes, lengthBytes } of ranges) tracker.mark(offsetBytes, lengthBytes);
        }
        // 4. The device changes, unless the power went out meanwhile.
        this.#assertUp();
        await apply();
      } finally {
        // 5. The drain of a cut waits for this.
        this.#barrier.finish(ranges.length);
        // 6. A power cut outweighs any other failure: that one would be a reason to try again, when the power is back.
        this.#assertSameBoot(boot);
      }
      // 7. Only now is the client answered.
    }, ranges.length);
  }

  #fixContents(request: CutRequest, hold: Hold): CutSource {
    const selected = this.#changedSince(request);
    if (request.fixedBy === 'barrier') {
      return new HeldSource(this.id, this.#device, this.#barrier, hold, request.blockSizeBytes);
    }
    const snapshot: Snapshot = new Snapshot(
      this.id,
      this.#device,
      request.blockSizeBytes,
      selected,
      this.#preImages,
      () => {
        this.#snapshots.delete(snapshot);
        this.#watch();
      },
    );
    this.#snapshots.add(snapshot);
    return snapshot;
  }

  #changedSince(request: CutRequest): SharedBitmap | undefined {
    if (request.changedSinceEpoch === undefined) return undefined;
    const tracker = this.#trackers.get(request.changedSinceEpoch);
    if (tracker?.blockSizeBytes !== request.blockSizeBytes) {
      throw new CofferdamError(
        'CUT_VOID',
        `server ${this.id}: the changes since epoch ${request.changedSinceEpoch} are not known; it may have restarted`,
        { device: this.id },
      );
    }
    this.#trackers.delete(request.changedSinceEpoch);
    return tracker.changed;
  }

  /** The path of reads and flushes: never parked. */
  async #answer<T>(request: () => Promise<T>): Promise<T> {
    this.#assertUp();
    const boot = this.#boots;
    try {
      return await request();
    } finally {
      this.#assertSameBoot(boot);
    }
  }

  /** Keeps native changes out while JavaScript has to see every change, for a tracker or a snapshot. */
  #watch(): void {
    const snapshots = [...this.#snapshots];
    const isWatched = this.#trackers.size > 0 || snapshots.some(({ isNative }) => !isNative);
    if (isWatched) this.#barrier.gate.shutChanges(Shut.Watched);
    else this.#barrier.gate.openChanges(Shut.Watched);
  }

  #setDown(reason: CofferdamError): void {
    this.#down = reason;
    this.#barrier.gate.shutChanges(Shut.Down);
    this.#barrier.gate.shutReads(Shut.Down);
  }

  #setUp(): void {
    this.#down = undefined;
    this.#barrier.gate.openChanges(Shut.Down);
    this.#barrier.gate.openReads(Shut.Down);
  }

  #assertUp(): void {
    if (this.#down) throw this.#down;
  }

  #assertSameBoot(boot: number): void {
    if (boot !== this.#boots) throw this.#powerCutError();
  }

  #powerCutError(): CofferdamError {
    return new CofferdamError(
      'POWER_CUT',
      `server ${this.id}: the power was cut; the request may or may not have been applied`,
      { device: this.id },
    );
  }
}

/** Which blocks were written since a cut. */
class ChangeTracker {
  readonly changed: SharedBitmap;

  constructor(
    sizeBytes: number,
    readonly blockSizeBytes: number,
  ) {
    this.changed = new SharedBitmap(Math.ceil(sizeBytes / blockSizeBytes));
  }

  mark(offsetBytes: number, lengthBytes: number): void {
    const first = Math.floor(offsetBytes / this.blockSizeBytes);
    this.changed.addRange(first, Math.ceil((offsetBytes + lengthBytes) / this.blockSizeBytes));
  }
}
