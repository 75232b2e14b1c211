import { CofferdamError, invariant } from '../runtime/errors.js';
import type { BlockDevice, Capabilities, Extent, WriteOptions, WriteZeroesOptions } from './block-device.js';
import { aligned, covers } from './byte-range.js';
import { ChangeLog, overlay, overlayAllocation, type Change, type Content } from './change-log.js';
import { Lifetime } from './lifetime.js';
import { survivors } from './power-loss.js';
import { RangeLock } from './range-lock.js';
import { allSettled } from './settle.js';

/** How many changes a flush has on their way to the medium at once. */
const FLUSH_DEPTH = 64;

/** The time between two power cuts. */
interface PowerUp {
  on: boolean;
}

/**
 * A disk with a volatile write cache: what it answered is in memory until a flush, and {@link powerCut} loses some of
 * it. It owns the device inside, its medium, and closes it; closing writes the cache back, as a disk does that is shut
 * down in order, but does not flush.
 *
 * Writes, write-zeroes and trims are kept as a log, each with its own bytes, so that a cut can leave any version of a
 * sector that was written more than once. The log is bounded (32 MiB, 4096 changes): when it is full, the next change
 * waits until all of it was written to the medium, and what was written there is past losing.
 *
 * Invariants:
 * 1. Medium plus log, in order, is what reads see. A change leaves the log only after the medium has it.
 * 2. Changes to the same sector reach the medium in the order in which they were answered: whoever writes to the medium
 *    holds the range (`#medium`).
 * 3. What was answered before a flush, or with fua, and all that the same sectors held before it, is on the medium, or
 *    marked as having reached it, which a cut leaves there.
 * 4. Nothing that was sent before a power cut touches the medium after it.
 */
export class VolatileCacheDevice implements BlockDevice {
  readonly name: string;
  readonly sizeBytes: number;
  readonly capabilities: Capabilities;
  /** The medium does not have what is in the cache. */
  readonly nativeSource = undefined;
  readonly #inner: BlockDevice;
  #log = new ChangeLog();
  #power: PowerUp = { on: true };
  #cutting: Promise<void> = Promise.resolve();
  readonly #medium = new RangeLock();
  readonly #lifetime = new Lifetime(this);

  constructor(inner: BlockDevice) {
    this.#inner = inner;
    this.name = inner.name;
    this.sizeBytes = inner.sizeBytes;
    this.capabilities = {
      readOnly: inner.capabilities.readOnly, // The cache must be able to write back.
      fua: true, // Only the sectors of the write go to the medium, not all of the cache.
      trim: inner.capabilities.trim, // It gets to the medium with the next flush.
      fastZero: true, // It takes a line in the log.
      multiConnection: inner.capabilities.multiConnection, // All connections share this cache; others flush the medium.
      preferredBlockBytes: inner.capabilities.preferredBlockBytes, // The log takes any range.
    };
  }

  /**
   * The power goes out and comes back. Requests in flight, and those sent until this resolves, fail with POWER_CUT.
   * Every sector is left as it was after the last flush, or as any later write left it. What is in flight on the
   * device inside is waited for.
   *
   * @param options.seed decides which, from the same unflushed changes always the same.
   * @throws CofferdamError DEVICE_CLOSED, or what the device inside throws. The cut is complete nevertheless.
   */
  async powerCut(options: { seed: number }): Promise<void> {
    this.#lifetime.assertOpen();
    this.#power.on = false;
    this.#cutting = this.#cutting.catch(() => {}).then(() => this.#cut(options.seed));
    await this.#cutting;
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    using _request = this.#lifetime.admit('read', offsetBytes, into.byteLength);
    await this.#powered(async () => {
      // A flush may drop changes while the medium is read: the walk starts where the log began before.
      const { beginning } = this.#log;
      await this.#inner.read(offsetBytes, into);
      overlay(beginning, offsetBytes, into);
    });
  }

  async write(offsetBytes: number, bytes: Uint8Array, options?: WriteOptions): Promise<void> {
    using _request = this.#lifetime.admit('write', offsetBytes, bytes.byteLength);
    // The caller may reuse its bytes once this is answered. The copy is made late, when there is room in the log.
    const content = (): Content => ({ kind: 'data', bytes: new Uint8Array(bytes) });
    await this.#change(offsetBytes, bytes.byteLength, content, options?.fua ?? false);
  }

  async flush(): Promise<void> {
    using _request = this.#lifetime.admitFlush();
    await this.#powered(async (power) => {
      // What is answered from here on is not promised by this flush.
      const { last } = this.#log;
      using _medium = await this.#medium.acquire(0, this.sizeBytes);
      await this.#writeBack(last, power);
      await this.#inner.flush();
      // Only now: where the medium fails, everything stays in the log for the next flush.
      this.#log.dropThrough(last);
    });
  }

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    using _request = this.#lifetime.admit('trim', offsetBytes, lengthBytes);
    await this.#change(offsetBytes, lengthBytes, () => ({ kind: 'trim' }), false);
  }

  async writeZeroes(offsetBytes: number, lengthBytes: number, options?: WriteZeroesOptions): Promise<void> {
    using _request = this.#lifetime.admit('write zeroes', offsetBytes, lengthBytes);
    const content = (): Content => ({ kind: 'zeroes', mayTrim: options?.mayTrim ?? true });
    await this.#change(offsetBytes, lengthBytes, content, options?.fua ?? false);
  }

  async allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    using _request = this.#lifetime.admit('allocation', offsetBytes, lengthBytes);
    return await this.#powered(async () => {
      const { beginning } = this.#log;
      return overlayAllocation(beginning, await this.#inner.allocation(offsetBytes, lengthBytes));
    });
  }

  close(): Promise<void> {
    return this.#lifetime.close(async () => {
      await this.#cutting.catch(() => {});
      try {
        await this.#writeBack(this.#log.last, this.#power);
      } finally {
        await this.#inner.close();
      }
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #change(
    offsetBytes: number,
    lengthBytes: number,
    content: () => Content,
    fua: boolean,
  ): Promise<void> {
    await this.#powered(async (power) => {
      if (lengthBytes === 0) return;
      while (this.#log.isFull) await this.#makeRoom(power);
      const change = this.#log.append(offsetBytes, lengthBytes, content());
      if (fua) await this.#writeThrough(change, power);
    });
  }

  async #makeRoom(power: PowerUp): Promise<void> {
    const { last } = this.#log;
    using _medium = await this.#medium.acquire(0, this.sizeBytes);
    await this.#writeBack(last, power);
    this.#log.dropThrough(last);
  }

  /** Makes one change durable, and of the older ones what the same sectors hold. The caller's sectors alone. */
  async #writeThrough(change: Change, power: PowerUp): Promise<void> {
    const sectors = aligned(change);
    using _medium = await this.#medium.acquire(sectors.offsetBytes, sectors.lengthBytes);
    this.#assertPowered(power);
    // Whoever drops changes asked for its range after them, and waits for this one.
    invariant(this.#log.holds(change), 'a change stays in the log until it was written through');
    change.reachedMedium = true;
    if (covers(change, sectors)) return await change.applyTo(this.#inner, sectors, true);
    const older = this.#log.through(change);
    const whole = older.findLastIndex((one) => covers(one, sectors));
    for (const one of older.slice(Math.max(0, whole))) await one.applyTo(this.#inner, sectors, true);
  }

  /** Brings the changes up to `last` to the medium, in order. The caller holds all of `#medium`. */
  async #writeBack(last: Change, power: PowerUp): Promise<void> {
    this.#assertPowered(power);
    const changes = this.#log.through(last);
    for (let at = 0; at < changes.length; at += FLUSH_DEPTH) {
      const turns = new RangeLock();
      await allSettled(
        changes.slice(at, at + FLUSH_DEPTH).map(async (change) => {
          using _turn = await turns.acquire(change.offsetBytes, change.lengthBytes);
          change.reachedMedium = true;
          await change.applyTo(this.#inner, change, false);
        }),
      );
      this.#assertPowered(power);
    }
  }

  async #cut(seed: number): Promise<void> {
    // 1. No request gets in any more, and those in flight give up at their next step.
    this.#power.on = false;
    // 2. Nothing sent before the cut is on its way to the medium any more.
    await this.#lifetime.idle();
    try {
      // 3. What survives is on the medium for good.
      for (const { change, range } of survivors(this.#log.through(this.#log.last), seed)) {
        await change.applyTo(this.#inner, range, false);
      }
      await this.#inner.flush();
    } finally {
      // 4. The rest is gone, and the power is back.
      this.#log = new ChangeLog();
      this.#power = { on: true };
    }
  }

  /** Runs a request that fails with POWER_CUT if the power goes out meanwhile, whatever the medium answered. */
  async #powered<T>(request: (power: PowerUp) => Promise<T>): Promise<T> {
    const power = this.#power;
    this.#assertPowered(power);
    const [outcome] = await Promise.allSettled([request(power)]);
    this.#assertPowered(power);
    if (outcome.status === 'rejected') throw outcome.reason;
    return outcome.value;
  }

  #assertPowered(power: PowerUp): void {
    if (power.on) return;
    const message = `${this.name}: the power was cut; the request may or may not have been applied`;
    throw new CofferdamError('POWER_CUT', message, { device: this.name });
  }
}
