import { CofferdamError, invariant } from '../../runtime/errors.js';
import { formatBytes, roundUp } from '../../runtime/sizes.js';
import { ALLOCATION_BYTES } from './layout.js';
import type { ImageStore } from './store.js';

/**
 * The free space of an image while a generation is written: everything from `startBytes` on, taken from a cursor that
 * worker threads share. Space is taken in whole multiples of 4096 bytes.
 */
export class FreeSpace {
  /** One word: the next free byte. Workers add to it atomically, and may so push it past the capacity. */
  readonly cursor = new BigInt64Array(new SharedArrayBuffer(8));

  constructor(
    readonly store: ImageStore,
    readonly startBytes: number,
  ) {
    invariant(startBytes % ALLOCATION_BYTES === 0, 'free space starts at a multiple of the allocation unit');
    this.cursor[0] = BigInt(startBytes);
  }

  get endBytes(): number {
    return Number(Atomics.load(this.cursor, 0));
  }

  /**
   * Takes space for `neededBytes`, or as much more as there is up to `wantedBytes`.
   *
   * @throws CofferdamError TARGET_FULL
   */
  take(neededBytes: number, wantedBytes = neededBytes): { offset: number; length: number } {
    const needed = roundUp(neededBytes, ALLOCATION_BYTES);
    for (;;) {
      const offset = this.endBytes;
      const free = this.store.capacityBytes - offset;
      if (needed > free) throw this.#full(offset, needed);
      const spare = free === Infinity ? Infinity : free - (free % ALLOCATION_BYTES);
      const length = Math.min(Math.max(needed, roundUp(wantedBytes, ALLOCATION_BYTES)), spare);
      if (this.#move(offset, offset + length)) return { offset, length };
    }
  }

  /** Takes back the unused end of an extent, if nothing was taken after it. */
  giveBack(fromBytes: number, toBytes: number): void {
    this.#move(toBytes, roundUp(fromBytes, ALLOCATION_BYTES));
  }

  #move(from: number, to: number): boolean {
    return Atomics.compareExchange(this.cursor, 0, BigInt(from), BigInt(to)) === BigInt(from);
  }

  #full(offset: number, needed: number): CofferdamError {
    const { name, capacityBytes } = this.store;
    return new CofferdamError(
      'TARGET_FULL',
      `${name}: no room for ${formatBytes(needed)} more at ${offset} of ${capacityBytes} bytes; use a larger device`,
      { device: name, offsetBytes: offset, lengthBytes: needed },
    );
  }
}
