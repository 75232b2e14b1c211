interface Claim {
  readonly startBytes: number;
  readonly endBytes: number;
  readonly released: Promise<void>;
}

/**
 * Mutual exclusion of overlapping byte ranges.
 *
 * Invariants:
 * 1. No two claims that overlap are held at once.
 * 2. Overlapping claims are granted in the order in which they were asked for. So no claim starves, and a chain of
 *    waiting claims has no cycle.
 */
export class RangeLock {
  /** Held and waiting, in the order of asking. */
  readonly #claims = new Set<Claim>();

  /** Resolves when the range is the caller's; disposing of the result gives it up. */
  async acquire(offsetBytes: number, lengthBytes: number): Promise<Disposable> {
    const endBytes = offsetBytes + lengthBytes;
    const before: Promise<void>[] = [];
    for (const claim of this.#claims) {
      if (claim.startBytes < endBytes && offsetBytes < claim.endBytes) before.push(claim.released);
    }
    let release = (): void => {};
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    const claim: Claim = { startBytes: offsetBytes, endBytes, released };
    this.#claims.add(claim);
    if (before.length > 0) await Promise.all(before);
    return {
      [Symbol.dispose]: () => {
        this.#claims.delete(claim);
        release();
      },
    };
  }
}
