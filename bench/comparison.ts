import type { Effort } from './effort.js';
import type { Results } from './race.js';
import { median, ratio } from './ratio.js';
import type { Cell, Column, Table } from './report.js';

/** The results of one race, and what it was about: one text per column. */
export interface LabelledResults {
  labels: readonly string[];
  results: Results;
}

export interface ComparisonOptions {
  title: string;
  /** Names of the columns of the labels, and of that of the racers. */
  names: readonly string[];
  /** How many racers are ours; they come first. */
  ours: number;
  /** What a run works through, for the column of rates. */
  rateOfBytes: number;
}

/** Two tables that compare racers with ours: by the time that they took, and by the processors' time. */
export function comparisonTables(options: ComparisonOptions, races: readonly LabelledResults[]): Table[] {
  return [
    comparisonTable(options, races, 'elapsedMs', 'time'),
    comparisonTable(options, races, 'processorMs', 'processor time'),
  ];
}

function comparisonTable(
  { title, names, ours, rateOfBytes }: ComparisonOptions,
  races: readonly LabelledResults[],
  measure: keyof Effort,
  what: string,
): Table {
  const [first] = races;
  const own = first ? [...first.results.keys()].slice(0, ours) : [];
  const columns: Column[] = [
    ...names.map((name): Column => ({ name, unit: 'text' })),
    { name: `${what}, median`, unit: 'ms' },
    { name: `bytes per ${what}`, unit: 'bytes/s' },
    ...own.map((name): Column => ({ name: `${name} / this`, unit: 'ratio' })),
  ];
  const rows = races.flatMap(({ labels, results }) =>
    [...results].map(([name, efforts]): Cell[] => {
      const taken = efforts.map((effort) => effort[measure]);
      const ms = median(taken);
      const ratios = own.map((racer) =>
        ratio(
          (results.get(racer) ?? []).map((effort) => effort[measure]),
          taken,
        ),
      );
      return [...labels, name, ms, (rateOfBytes / ms) * 1000, ...ratios];
    }),
  );
  return { title: `${title}: ${what}`, columns, rows };
}
