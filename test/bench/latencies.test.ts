import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Latencies, type LatencyBins } from '../../bench/latencies.js';
import { percentile } from '../../bench/ratio.js';
import { testSeed } from '../support/seed.js';

const nanoseconds = fc.integer({ min: 1, max: 2_000_000_000 });

function histogramOf(values: readonly number[]): LatencyBins {
  const bins: Record<string, number> = {};
  for (const value of values) bins[value] = (bins[value] ?? 0) + 1;
  return bins;
}

test('histograms together have the percentiles of all their values', () => {
  const lists = fc.array(fc.array(nanoseconds), { minLength: 1 }).filter((all) => all.flat().length > 0);
  fc.assert(
    fc.property(lists, fc.double({ min: 0, max: 100, noNaN: true }), (rounds, percentage) => {
      const latencies = new Latencies(rounds.map(histogramOf));
      const values = rounds.flat().map((value) => value / 1e6);
      expect(latencies.count).toBe(values.length);
      expect(latencies.percentile(percentage)).toBe(percentile(values, percentage));
    }),
    { seed: testSeed() },
  );
});

test('a distribution says which share of the values is no larger', () => {
  fc.assert(
    fc.property(fc.array(nanoseconds, { minLength: 1 }), (values) => {
      for (const [ms, share] of new Latencies([histogramOf(values)]).distribution()) {
        expect(share).toBe(values.filter((value) => value / 1e6 <= ms).length / values.length);
      }
    }),
    { seed: testSeed() },
  );
});
