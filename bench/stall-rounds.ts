import { setTimeout as wait } from 'node:timers/promises';
import type { TemporaryDirectory } from '../test/support/directory.js';
import { loadDuring } from './fio-load.js';
import { Latencies, type LatencyBins } from './latencies.js';
import { percentile } from './ratio.js';
import type { Disk, ServedDisks, ServingSystem } from './served-disks.js';

/** What goes on while clients write: a way to back up, over and over, or nothing. */
export const NO_BACKUP = 'no backup';

/** What was seen in one round. */
export interface Round {
  writesPerSecond: number;
  bins: LatencyBins;
  latencies: Latencies;
  backupsMs: number[];
  stallsMs: number[];
}

/** One system, one thing that goes on, one depth, on one set of disks. */
export interface Subject {
  system: string;
  activity: string;
  depth: number;
  rounds: Round[];
}

export interface ObservationPlan {
  depths: readonly number[];
  rounds: number;
  /** How long clients write at least, in each round. */
  durationMs: number;
}

/** Lets the systems take turns to serve the disks to clients that write, with and without backups. */
export async function observeStalls(
  systems: readonly ServingSystem[],
  disks: readonly Disk[],
  directory: TemporaryDirectory,
  { depths, rounds, durationMs }: ObservationPlan,
  note: (text: string) => void,
): Promise<Subject[]> {
  const subjects = systems.flatMap(({ name, ways }) =>
    depths.flatMap((depth) =>
      [NO_BACKUP, ...ways].map((activity): Subject => ({ system: name, activity, depth, rounds: [] })),
    ),
  );
  for (let round = 1; round <= rounds; round++) {
    for (const system of systems) {
      await using served = await system.serve(disks, directory);
      for (const subject of subjects.filter((candidate) => candidate.system === system.name)) {
        note(`round ${round} of ${rounds}: ${system.name}, depth ${subject.depth}, ${subject.activity}`);
        subject.rounds.push(await observe(served, subject, directory, durationMs));
      }
    }
  }
  return subjects;
}

async function observe(
  served: ServedDisks,
  { activity, depth }: Subject,
  directory: TemporaryDirectory,
  durationMs: number,
): Promise<Round> {
  const backupsMs: number[] = [];
  const stallsMs: number[] = [];
  const load = { uris: served.uris, depth, warmUpMs: Math.min(300, durationMs), directory: directory.path };
  const { writesPerSecond, bins } = await loadDuring(load, async () => {
    const endMs = performance.now() + durationMs;
    if (activity === NO_BACKUP) return wait(durationMs);
    do {
      const { elapsedMs, stallMs } = await served.backUp(activity);
      backupsMs.push(elapsedMs);
      if (stallMs !== undefined) stallsMs.push(stallMs);
    } while (performance.now() < endMs);
  });
  return { writesPerSecond, bins, latencies: new Latencies([bins]), backupsMs, stallsMs };
}

/** What all rounds together show. */
export interface Summary {
  latencies: Latencies;
  writesPerSecond: number[];
  stallsMs: number[];
  backupsMs: number[];
}

export function summaryOf({ rounds }: Subject): Summary {
  return {
    latencies: new Latencies(rounds.map(({ bins }) => bins)),
    writesPerSecond: rounds.map((round) => round.writesPerSecond),
    stallsMs: rounds.flatMap((round) => round.stallsMs),
    backupsMs: rounds.flatMap((round) => round.backupsMs),
  };
}

/** A percentile of what may be empty. */
export function percentileOf(values: readonly number[], percentage: number): number | null {
  return values.length > 0 ? percentile(values, percentage) : null;
}
