import { invariant } from '../runtime/errors.js';
import type { Random } from '../runtime/random.js';
import { INITIAL } from './contents.js';

/** In {@link Ledger.expected}: a write to the sector failed, so it may hold that write or what was there before. */
export const UNCERTAIN = -2;

const LONGEST_CLAIM = 8;
const RANDOM_TRIES = 16;

/** Sectors of an area, counted from its start. */
export interface Claim {
  first: number;
  count: number;
}

/**
 * Who may use which sectors of one area, and what they should hold.
 *
 * Invariants:
 *
 * 1. A sector is in at most one claim. Whoever sends a request holds a claim on its sectors, so no sector ever has two
 *    requests outstanding.
 * 2. `expected` of a sector that nobody claims is what a read must find there.
 */
export class Ledger {
  readonly #claimed: Uint8Array;
  readonly #expected: Int32Array;

  constructor(readonly sectorCount: number) {
    this.#claimed = new Uint8Array(sectorCount);
    this.#expected = new Int32Array(sectorCount).fill(INITIAL);
  }

  /** Claims 1 to 8 sectors at a random place, or undefined if none is free. */
  claim(random: Random): Claim | undefined {
    for (let attempt = 0; attempt < RANDOM_TRIES; attempt++) {
      const count = 1 + random.below(Math.min(LONGEST_CLAIM, this.sectorCount));
      const first = random.below(this.sectorCount - count + 1);
      if (!this.#claimed.subarray(first, first + count).includes(1)) return this.#take(first, count);
    }
    const free = this.#claimed.indexOf(0);
    return free === -1 ? undefined : this.#take(free, 1);
  }

  #take(first: number, count: number): Claim {
    this.#claimed.fill(1, first, first + count);
    return { first, count };
  }

  release({ first, count }: Claim): void {
    const claimed = this.#claimed.subarray(first, first + count);
    invariant(!claimed.includes(0), `sectors ${first} to ${first + count - 1} were released without a claim`);
    claimed.fill(0);
  }

  /** Notes what claimed sectors hold from now on: a write, or {@link UNCERTAIN}. */
  expect({ first, count }: Claim, content: number): void {
    this.#expected.fill(content, first, first + count);
  }

  /** What a sector holds: a write's sequence number, `INITIAL` or `UNCERTAIN`. */
  expected(sector: number): number {
    const content = this.#expected[sector];
    invariant(content !== undefined, `there is no sector ${sector} in an area of ${this.sectorCount}`);
    return content;
  }
}
