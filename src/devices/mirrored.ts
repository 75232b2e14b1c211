import { invariant } from '../runtime/errors.js';
import type { BlockDevice, Capabilities, Extent, WriteOptions, WriteZeroesOptions } from './block-device.js';
import { assertChildren, closeAll, commonCapabilities, smallestBytes } from './composite.js';
import { Lifetime } from './lifetime.js';
import { RangeLock } from './range-lock.js';

/** One copy of a mirrored device. */
export interface MirrorLeg {
  readonly device: BlockDevice;
  /** False once it was dropped: it may miss writes and is never read again. */
  readonly healthy: boolean;
  /** The error that dropped it. */
  readonly failure?: unknown;
}

type Leg = { -readonly [K in keyof MirrorLeg]: MirrorLeg[K] };

/**
 * The same bytes on several devices (RAID 1). It owns the devices and closes them. They must hold the same bytes when
 * they are put together. Which legs failed is not stored: leave those out when the rest is opened again.
 *
 * Invariants:
 * 1. While no write is in flight, all healthy legs hold the same bytes. So overlapping writes take turns (a range lock):
 *    otherwise two legs could apply them in different orders and differ for ever.
 * 2. A leg that missed a write, or whose flush failed, is dropped before that request is answered and never read again.
 * 3. At least one leg is healthy. When a write fails on all that are left, the first of them stays: it holds what
 *    any single disk holds after a failed write, and the writer is told.
 * 4. Reads go to the first leg. Where it is dropped or cannot read they go to the others, under the range lock: a write
 *    that is half-way could otherwise be seen on one leg by one read and be missing on another for the next.
 */
export class MirroredDevice implements BlockDevice {
  readonly name: string;
  readonly sizeBytes: number;
  readonly capabilities: Capabilities;
  /** No single leg is always right. */
  readonly nativeSource = undefined;
  readonly #legs: Leg[];
  readonly #lock = new RangeLock();
  readonly #lifetime = new Lifetime(this);

  /** @throws CofferdamError BAD_ARGUMENT */
  constructor(children: readonly BlockDevice[]) {
    assertChildren('mirrored device', children);
    this.#legs = children.map((device) => ({ device, healthy: true }));
    this.name = `mirror of ${children.map((child) => child.name).join(', ')}`;
    this.sizeBytes = smallestBytes(children);
    const common = commonCapabilities(children);
    this.capabilities = {
      ...common, // Every write goes to every leg.
      trim: common.trim && common.fastZero, // A trim is a write of zeros here, see `trim`.
    };
  }

  /** The legs in the order given, and which of them failed. */
  get legs(): readonly MirrorLeg[] {
    return this.#legs;
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    using _request = this.#lifetime.admit('read', offsetBytes, into.byteLength);
    await this.#onOne(offsetBytes, into.byteLength, (leg) => leg.read(offsetBytes, into));
  }

  async write(offsetBytes: number, bytes: Uint8Array, options?: WriteOptions): Promise<void> {
    using _request = this.#lifetime.admit('write', offsetBytes, bytes.byteLength);
    using _range = await this.#lock.acquire(offsetBytes, bytes.byteLength);
    await this.#onAll((leg) => leg.write(offsetBytes, bytes, options));
  }

  async flush(): Promise<void> {
    using _request = this.#lifetime.admitFlush();
    await this.#onAll((leg) => leg.flush());
  }

  /** What a trimmed range reads as may differ from leg to leg, so it is made zeros, or left as it is. */
  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    using _request = this.#lifetime.admit('trim', offsetBytes, lengthBytes);
    if (!this.capabilities.trim) return;
    using _range = await this.#lock.acquire(offsetBytes, lengthBytes);
    await this.#onAll((leg) => leg.writeZeroes(offsetBytes, lengthBytes));
  }

  async writeZeroes(offsetBytes: number, lengthBytes: number, options?: WriteZeroesOptions): Promise<void> {
    using _request = this.#lifetime.admit('write zeroes', offsetBytes, lengthBytes);
    using _range = await this.#lock.acquire(offsetBytes, lengthBytes);
    await this.#onAll((leg) => leg.writeZeroes(offsetBytes, lengthBytes, options));
  }

  async allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    using _request = this.#lifetime.admit('allocation', offsetBytes, lengthBytes);
    return await this.#onOne(offsetBytes, lengthBytes, (leg) => leg.allocation(offsetBytes, lengthBytes));
  }

  close(): Promise<void> {
    return this.#lifetime.close(() => closeAll(this.#legs.map((leg) => leg.device)));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** A request that any healthy leg can answer. */
  async #onOne<T>(
    offsetBytes: number,
    lengthBytes: number,
    request: (leg: BlockDevice) => Promise<T>,
  ): Promise<T> {
    const [first, ...others] = this.#legs;
    invariant(first !== undefined, 'a mirror has at least one leg');
    let failure: unknown;
    if (first.healthy) {
      try {
        return await request(first.device);
      } catch (error) {
        failure = error;
      }
    }
    using _range = await this.#lock.acquire(offsetBytes, lengthBytes);
    for (const leg of others) {
      if (!leg.healthy) continue;
      try {
        return await request(leg.device);
      } catch (error) {
        failure = error;
      }
    }
    throw failure;
  }

  /** A request that every healthy leg must take. */
  async #onAll(request: (leg: BlockDevice) => Promise<void>): Promise<void> {
    const asked = this.#legs.filter((leg) => leg.healthy);
    const outcomes = await Promise.allSettled(asked.map((leg) => request(leg.device)));
    // Another request may have dropped a leg meanwhile: that this one succeeded there is worth nothing.
    const done: Leg[] = [];
    const failed: { leg: Leg; error: unknown }[] = [];
    for (const [index, outcome] of outcomes.entries()) {
      const leg = asked[index];
      if (!leg?.healthy) continue;
      if (outcome.status === 'fulfilled') done.push(leg);
      else failed.push({ leg, error: outcome.reason });
    }
    const kept = done.length > 0 ? undefined : failed.shift();
    for (const { leg, error } of failed) {
      leg.healthy = false;
      leg.failure = error;
    }
    invariant(
      this.#legs.some((leg) => leg.healthy),
      'a mirror has at least one healthy leg',
    );
    if (kept) throw kept.error;
  }
}
