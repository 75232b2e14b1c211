/** How two contestants compare over the rounds of one run. */
export interface Ratio {
  /** The median of the ratios, each of two neighbours in one round. */
  median: number;
  min: number;
  max: number;
}

/**
 * Divides round by round, so that what disturbs the machine for longer than a round disturbs both alike.
 *
 * @param times and `others` hold one number per round.
 */
export function ratio(times: readonly number[], others: readonly number[]): Ratio {
  const ratios = times.map((time, round) => time / (others[round] ?? NaN));
  return { median: median(ratios), min: Math.min(...ratios), max: Math.max(...ratios) };
}

export function median(values: readonly number[]): number {
  return percentile(values, 50);
}

/** The smallest value that at least this percentage of the values do not exceed (nearest rank). */
export function percentile(values: readonly number[], percentage: number): number {
  const rank = Math.max(1, Math.ceil((percentage / 100) * values.length));
  return values.toSorted((a, b) => a - b)[rank - 1] ?? NaN;
}
