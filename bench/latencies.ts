/** Nanoseconds to how many requests took about that long. */
export type LatencyBins = Readonly<Record<string, number>>;

/** How long requests took, as far as a histogram tells. */
export class Latencies {
  /** Milliseconds and counts, in ascending order. */
  readonly #bins: readonly (readonly [ms: number, count: number])[];
  readonly count: number;

  constructor(histograms: readonly LatencyBins[]) {
    const counts = new Map<number, number>();
    for (const [nanoseconds, count] of histograms.flatMap((bins) => Object.entries(bins))) {
      const ms = Number(nanoseconds) / 1e6;
      counts.set(ms, (counts.get(ms) ?? 0) + count);
    }
    this.#bins = [...counts].toSorted(([a], [b]) => a - b);
    this.count = this.#bins.reduce((total, [, count]) => total + count, 0);
  }

  /** The smallest latency in ms that at least this percentage of the requests do not exceed (nearest rank). */
  percentile(percentage: number): number {
    const rank = Math.max(1, Math.ceil((percentage / 100) * this.count));
    let seen = 0;
    for (const [ms, count] of this.#bins) if ((seen += count) >= rank) return ms;
    return NaN;
  }

  /** Latency in ms, and the share of the requests that took no longer. */
  distribution(): [ms: number, share: number][] {
    let seen = 0;
    return this.#bins.map(([ms, count]) => [ms, (seen += count) / this.count]);
  }
}
