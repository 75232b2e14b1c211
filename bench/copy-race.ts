import { statfs } from 'node:fs/promises';
import { formatBytes, MiB } from '#src/runtime/sizes';
import { temporaryDirectory } from '../test/support/directory.js';
import { isInMemory } from './page-cache.js';
import { comparisonTables, type LabelledResults } from './comparison.js';
import { race, type Results } from './race.js';
import type { Table } from './report.js';
import type { SuiteContext } from './suite.js';
import { CopyTarget, type Conditions } from './targets.js';
import type { WayToCopy } from './ways-to-copy.js';

export interface CopyRace {
  title: string;
  /** What is ours: the whole command, the function in this process. */
  ours: readonly WayToCopy[];
  others: readonly WayToCopy[];
  /** Of all the images together. */
  sizeBytes: number;
}

export const copyExplanations = [
  'Times are until the copy is durable: ours is when it ends, the others are followed by sync FILE. They take turns, and ' +
    'a ratio is our time by the time of this one in the same round: less is better. Processor time is that of ' +
    'all processors in program and system. In memory, where syncing costs nothing and no disk is waited for, it is the ' +
    'one to compare.',
  'The whole command includes the start of Node; the function runs in a process, and with threads, that are there ' +
    'already. The bare read and write are as many threads as it has, which do nothing else.',
  'A new target did not exist before, or was a file of holes for those that need one. A target in place has the blocks ' +
    'of an earlier copy; cp gives them up first, and an image is wound back to before its only generation. A cold source ' +
    'is not in the page cache. Images that are copied together are one backup of ours; the others copy them one by one.',
];

/** Lets the ways take turns on disk and in memory, to new targets and in place, cached and cold. */
export async function raceCopies(
  { title, ours, others, sizeBytes }: CopyRace,
  { smoke, note }: Pick<SuiteContext, 'smoke' | 'note'>,
): Promise<Table[]> {
  const ways = [...ours, ...others];
  const results: LabelledResults[] = [];
  for (const place of smoke ? (['disk'] as const) : (['disk', 'memory'] as const)) {
    await using directory = temporaryDirectory({ inMemory: place === 'memory' });
    if (place === 'memory' && !(await isInMemory(directory.path))) continue;
    for (const conditions of await conditionsFor(ways, place, smoke)) {
      const { target, source } = conditions;
      // Only targets in place are there side by side; there is some more to an image than the data.
      const neededBytes = (target === 'new' ? 1 : ways.length) * (sizeBytes + 16 * MiB);
      if (!(await hasRoom(directory.path, neededBytes))) {
        note(`no ${formatBytes(neededBytes)} are free in ${place} to copy to a target ${target}: left out`);
        continue;
      }
      note(`${place}, target ${target}, source ${source}`);
      const targets = ways.map((way, i) => new CopyTarget(way, directory.file(`${i}`)));
      const labels = [`${target}, ${place}`, source];
      results.push({ labels, results: await raceUnder(conditions, targets, smoke ? 1 : 5) });
    }
  }
  const names = ['target', 'source', 'done by'];
  return comparisonTables({ title, names, ours: ours.length, rateOfBytes: sizeBytes }, results);
}

async function conditionsFor(
  ways: readonly WayToCopy[],
  place: 'disk' | 'memory',
  smoke: boolean,
): Promise<Conditions[]> {
  const cold = place === 'disk' && !(await someInMemory(ways));
  const all = (['new', 'in place'] as const).flatMap((target): Conditions[] => [
    { target, source: 'cached' },
    ...(cold ? [{ target, source: 'cold' } as const] : []),
  ]);
  return smoke ? all.slice(-1) : all;
}

async function someInMemory(ways: readonly WayToCopy[]): Promise<boolean> {
  return (await Promise.all(ways.flatMap(({ sources }) => sources).map(isInMemory))).includes(true);
}

async function hasRoom(directory: string, neededBytes: number): Promise<boolean> {
  const { bavail, bsize } = await statfs(directory);
  return bavail * bsize >= neededBytes;
}

async function raceUnder(
  conditions: Conditions,
  targets: readonly CopyTarget[],
  rounds: number,
): Promise<Results> {
  const racers = targets.map((target) => target.racer(conditions));
  const results = await race(racers, rounds);
  for (const target of targets) await target.remove();
  return results;
}
