import type { Random } from '../../runtime/random.js';

/** The standard normal variable is below this with probability 0.99. */
const NORMAL_P99 = 2.326347874;

/**
 * How long something takes: a log-normal distribution, which is what latencies of networks and disks look like: most are
 * near the median, few are several times as long, none is negative.
 */
export class Latency {
  readonly #medianMs: number;
  readonly #sigma: number;

  /** @param tail the 99th percentile over the median, at least 1; with 1 everything takes equally long. */
  constructor(medianMs: number, tail: number) {
    this.#medianMs = medianMs;
    this.#sigma = Math.log(tail) / NORMAL_P99;
  }

  get meanMs(): number {
    return this.#medianMs * Math.exp(this.#sigma ** 2 / 2);
  }

  /** In ms. */
  draw(random: Random): number {
    return this.#medianMs * Math.exp(this.#sigma * normal(random));
  }

  /**
   * What is left, in ms, of one that is under way when somebody looks. Long ones are met more often: the length of
   * the one that is met is log-normal too, with exp(sigma^2) times the median, and any part of it may have passed.
   */
  residual(random: Random): number {
    return random.unit() * Math.exp(this.#sigma ** 2) * this.draw(random);
  }
}

/** In ms, with this mean; however long it has lasted, what is left is distributed alike. */
export function exponential(random: Random, meanMs: number): number {
  return -meanMs * Math.log(1 - random.unit());
}

/** Box and Muller's transform. */
function normal(random: Random): number {
  const radius = Math.sqrt(-2 * Math.log(1 - random.unit()));
  return radius * Math.cos(2 * Math.PI * random.unit());
}
