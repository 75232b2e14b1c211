import { median, ratio } from './ratio.js';
import type { Cell, Column, Plot, Table } from './report.js';
import { NO_BACKUP, percentileOf, summaryOf, type Round, type Subject } from './stall-rounds.js';

/** Disks, and what was seen on them. */
export interface DiskSet {
  title: string;
  subjects: readonly Subject[];
}

/** What clients met, by everything that went on. */
export function waits({ title, subjects }: DiskSet): Table {
  return {
    title: `Writes to ${title}`,
    columns: [
      { name: 'served by', unit: 'text' },
      { name: 'during', unit: 'text' },
      { name: 'depth', unit: 'count' },
      { name: 'writes/s', unit: 'count' },
      { name: 'throughput kept', unit: 'ratio' },
      { name: 'p50', unit: 'ms' },
      { name: 'p99', unit: 'ms' },
      { name: 'p99.9', unit: 'ms' },
      { name: 'max', unit: 'ms' },
      { name: 'stall, median', unit: 'ms' },
      { name: 'stall, max', unit: 'ms' },
      { name: 'a backup, median', unit: 'ms' },
    ],
    rows: subjects.map((subject): Cell[] => {
      const { latencies, writesPerSecond, stallsMs, backupsMs } = summaryOf(subject);
      const alone = summaryOf(counterpart(subjects, subject, { activity: NO_BACKUP }));
      return [
        subject.system,
        subject.activity,
        subject.depth,
        Math.round(median(writesPerSecond)),
        ratio(writesPerSecond, alone.writesPerSecond),
        ...[50, 99, 99.9, 100].map((percentage) => latencies.percentile(percentage)),
        ...[50, 100].map((percentage) => percentileOf(stallsMs, percentage)),
        percentileOf(backupsMs, 50),
      ];
    }),
  };
}

const measures: { column: Column; of: (round: Round) => number }[] = [
  ...[50, 99, 99.9, 100].map((percentage) => ({
    column: { name: percentage === 100 ? 'max' : `p${percentage}`, unit: 'ratio' as const },
    of: ({ latencies }: Round) => latencies.percentile(percentage),
  })),
  { column: { name: 'writes/s', unit: 'ratio' }, of: ({ writesPerSecond }) => writesPerSecond },
];

/** Each of our rows by that of the peer in the same round: without a backup by without, all ways to back up by its own. */
export function besidePeer({ title, subjects }: DiskSet, ours: string, peer: string): Table {
  return {
    title: `${ours} / ${peer}, ${title}`,
    columns: [
      { name: 'during', unit: 'text' },
      { name: 'depth', unit: 'count' },
      ...measures.map(({ column }) => column),
    ],
    rows: subjects
      .filter(({ system }) => system === ours)
      .map((subject): Cell[] => {
        const other = subjects.find(
          ({ system, activity, depth }) =>
            system === peer &&
            depth === subject.depth &&
            (activity === NO_BACKUP) === (subject.activity === NO_BACKUP),
        );
        if (!other) throw new Error(`${peer} was not measured`);
        return [subject.activity, subject.depth, ...compare(subject, other)];
      }),
  };
}

/** How latencies and throughput change with the size of the disks, if there are two sets of them. */
export function growth([small, large]: readonly DiskSet[]): Table[] {
  if (!small || !large) return [];
  return [
    {
      title: `${large.title} / ${small.title}`,
      columns: [
        { name: 'served by', unit: 'text' },
        { name: 'during', unit: 'text' },
        { name: 'depth', unit: 'count' },
        ...measures.map(({ column }) => column),
      ],
      rows: large.subjects.map((subject): Cell[] => [
        subject.system,
        subject.activity,
        subject.depth,
        ...compare(subject, counterpart(small.subjects, subject, {})),
      ]),
    },
  ];
}

/** A plot per depth of how many writes took how long. */
export function distributions({ title, subjects }: DiskSet): Plot[] {
  const depths = [...new Set(subjects.map(({ depth }) => depth))];
  return depths.map((wanted) => ({
    title: `Latency of writes to ${title}, depth ${wanted}`,
    x: { name: 'latency', unit: 'ms', scale: 'log' },
    y: { name: 'share of the writes that took no longer', unit: 'ratio', scale: 'linear' },
    series: subjects
      .filter(({ depth }) => depth === wanted)
      .map((subject) => ({
        name: `${subject.system}, ${subject.activity}`,
        points: summaryOf(subject).latencies.distribution(),
      })),
  }));
}

function compare(subject: Subject, other: Subject): Cell[] {
  return measures.map(({ of }) => ratio(subject.rounds.map(of), other.rounds.map(of)));
}

/** The same thing, but for what is to differ. */
function counterpart(
  subjects: readonly Subject[],
  { system, activity, depth }: Subject,
  difference: { activity?: string },
): Subject {
  const wanted = difference.activity ?? activity;
  const found = subjects.find(
    (subject) => subject.system === system && subject.activity === wanted && subject.depth === depth,
  );
  if (!found) throw new Error(`${system}, ${wanted} was not measured at depth ${depth}`);
  return found;
}
