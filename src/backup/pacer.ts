import { sleep, type Clock } from '../runtime/clock.js';

/**
 * Keeps the bytes read from the sources under a rate. Bytes are paid for after they were read, so the rate is exact over
 * time and a single piece may come early.
 */
export class Pacer {
  readonly #clock: Clock;
  readonly #bytesPerMs: number;
  #paidUntilMs: number;

  /** @param bytesPerSecond absent: no limit. */
  constructor(
    clock: Clock,
    readonly bytesPerSecond: number | undefined,
  ) {
    this.#clock = clock;
    this.#bytesPerMs = (bytesPerSecond ?? Infinity) / 1000;
    this.#paidUntilMs = clock.nowMs();
  }

  /** Resolves when `bytes` more may have been read. */
  async pay(bytes: number, signal: AbortSignal): Promise<void> {
    const now = this.#clock.nowMs();
    this.#paidUntilMs = Math.max(now, this.#paidUntilMs) + bytes / this.#bytesPerMs;
    if (this.#paidUntilMs > now) await sleep(this.#clock, this.#paidUntilMs - now, signal);
  }
}
