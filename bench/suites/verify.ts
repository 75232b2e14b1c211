import { rm, stat } from 'node:fs/promises';
import { CopyPool, openImage, verify as verifyImage } from 'cofferdam';
import { loadCore } from '#src/core/load';
import type { HashAlgorithm } from '#src/core/core';
import { temporaryDirectory } from '../../test/support/directory.js';
import { backUp } from '../backups.js';
import { comparisonTables, type LabelledResults } from '../comparison.js';
import { diskImages } from '../disk-images.js';
import { effortOfCall, effortOfCommand, program } from '../effort.js';
import { dropFromPageCache, isInMemory } from '../page-cache.js';
import { race, type Racer } from '../race.js';
import type { Report, Table } from '../report.js';
import type { Suite, SuiteContext } from '../suite.js';
import { isInstalled } from '../ways-to-copy.js';

export const verify: Suite = {
  name: 'verify',
  summary: 'checking a backup beside xxhsum and b3sum, which hash the same file',
  takesImages: true,
  run,
};

const peers: Readonly<Record<HashAlgorithm, { tool: string; command: string }>> = {
  xxh64: { tool: 'xxhsum', command: 'xxhsum -H1' },
  blake3: { tool: 'b3sum', command: 'b3sum' },
};

const explanation =
  'All read the whole file of the backup: what is compared is the same bytes. b3sum and verify use all processors, xxhsum ' +
  'uses one. They take turns, and a ratio is our time by the time of this one in the same round: less is better. A cold ' +
  'image is not in the page cache.';

async function run(context: SuiteContext): Promise<Report> {
  await using directory = temporaryDirectory();
  await using pool = await CopyPool.start(await loadCore());
  const tables: Table[] = [];
  for (const [i, { title, path }] of (await diskImages(directory, context)).entries()) {
    for (const hash of ['xxh64', 'blake3'] as const) {
      const note = (text: string): void => context.note(`${title}, ${hash}: ${text}`);
      const image = directory.file(`${i}.${hash}.cofferdam`);
      await backUp([path], image, { pool, hash });
      const { size } = await stat(image);
      const races = await raceReaders(await readersOf(image, hash, pool, note), image, context.smoke);
      const names = ['image', 'read by'];
      const options = { title: `${title}, ${hash}`, names, ours: 2, rateOfBytes: size };
      tables.push(...comparisonTables(options, races));
      await rm(image);
    }
  }
  return { tables, notes: [explanation] };
}

async function raceReaders(
  readers: readonly Racer[],
  image: string,
  smoke: boolean,
): Promise<LabelledResults[]> {
  const races: LabelledResults[] = [{ labels: ['cached'], results: await race(readers, smoke ? 1 : 9) }];
  if (smoke || (await isInMemory(image))) return races;
  const cold = readers.map((reader) => ({ ...reader, before: () => dropFromPageCache(image) }));
  return [...races, { labels: ['cold'], results: await race(cold, 9) }];
}

async function readersOf(
  image: string,
  hash: HashAlgorithm,
  pool: CopyPool,
  note: (text: string) => void,
): Promise<Racer[]> {
  const script = `"${process.execPath}" "${program}" verify "$1"`;
  const { tool, command } = peers[hash];
  const peer = { name: command, run: () => effortOfCommand(`${command} "$1"`, [image]) };
  return [
    { name: 'cofferdam verify', run: () => effortOfCommand(script, [image]) },
    { name: 'verify()', run: () => effortOfCall(() => verifyAll(image, pool)) },
    ...((await isInstalled(tool, note)) ? [peer] : []),
  ];
}

async function verifyAll(path: string, pool: CopyPool): Promise<void> {
  await using image = await openImage(path);
  const { ok } = await verifyImage(image, { pool });
  if (!ok) throw new Error(`${path} is damaged`);
}
