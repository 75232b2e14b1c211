/** The numbers that tell how some times are distributed, in ms. */
export interface Quantiles {
  p50: number;
  p90: number;
  p99: number;
  p999: number;
  max: number;
}

/** By nearest rank: each is one of the values. Undefined if there are none. */
export function quantilesOf(values: readonly number[]): Quantiles | undefined {
  const sorted = Float64Array.from(values).sort();
  const at = (part: number): number => sorted[Math.ceil(part * sorted.length) - 1] ?? NaN;
  if (sorted.length === 0) return undefined;
  return { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: at(1) };
}
