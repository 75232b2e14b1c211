import { execFile } from 'node:child_process';
import { readSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { promisify } from 'node:util';
import type { Core, HashAlgorithm } from '#src/core/core';
import { KiB, MiB } from '#src/runtime/sizes';
import { randomBytes } from '../../test/support/bytes.js';
import { temporaryDirectory } from '../../test/support/directory.js';
import { comparisonTables } from '../comparison.js';
import { contest, timesOf, type Contestant } from '../contest.js';
import { availableCores } from '../cores.js';
import { diskImages, makeDiskImage } from '../disk-images.js';
import { effortOfCall, effortOfCommand } from '../effort.js';
import { race, type Racer } from '../race.js';
import { median, ratio } from '../ratio.js';
import type { Cell, Report, Table } from '../report.js';
import type { Suite, SuiteContext } from '../suite.js';
import { isInstalled } from '../ways-to-copy.js';

/** What one run works through, however long its buffers are. It fits into the processor's cache. */
const AREA_BYTES = MiB;

const operations: { name: string; area: Uint8Array; apply: (core: Core, buffer: Uint8Array) => unknown }[] = [
  { name: 'xxh64', area: randomBytes(AREA_BYTES, 1), apply: (core, buffer) => core.hash('xxh64', buffer) },
  { name: 'blake3', area: randomBytes(AREA_BYTES, 1), apply: (core, buffer) => core.hash('blake3', buffer) },
  // Zeros are the most work: the test may stop at the first byte that is none.
  { name: 'zero test', area: new Uint8Array(AREA_BYTES), apply: (core, buffer) => core.isZero(buffer) },
];

export const hash: Suite = {
  name: 'hash',
  summary: 'hashes and zero test in memory, and hashes of files beside xxhsum and b3sum',
  takesImages: true,
  run,
};

async function run(context: SuiteContext): Promise<Report> {
  const cores = await availableCores();
  return {
    tables: [
      await inMemory(cores, context),
      ...(await besideBenchmark(cores, context)),
      ...(await ofFiles(cores, context)),
    ],
    notes: [
      'Of a file that is in the page cache, the core hashes blocks of 64 KiB on one thread of this process, read a megabyte ' +
        'at a time; the others are whole commands, start included. b3sum uses all processors unless it is told not to.',
    ],
  };
}

async function inMemory(cores: readonly Core[], { smoke, note }: SuiteContext): Promise<Table> {
  const rows: Cell[][] = [];
  for (const bufferBytes of smoke ? [64 * KiB] : [4 * KiB, 64 * KiB, MiB]) {
    for (const { name, area, apply } of operations) {
      note(`${name}, ${bufferBytes} bytes`);
      const contestants = cores.map((core): Contestant => {
        return {
          name: core.name,
          async: false,
          run: () => {
            for (let start = 0; start < AREA_BYTES; start += bufferBytes) {
              apply(core, area.subarray(start, start + bufferBytes));
            }
          },
        };
      });
      const times = await contest(contestants, smoke ? { rounds: 1 } : { rounds: 7, timeMs: 50 });
      const native = times.get('native');
      const portable = timesOf(times, 'portable');
      const bytesPerSecond = (ms: number): number => (AREA_BYTES / ms) * 1000;
      rows.push([
        name,
        bufferBytes,
        native ? bytesPerSecond(median(native)) : null,
        bytesPerSecond(median(portable)),
        native ? ratio(portable, native) : null,
      ]);
    }
  }
  return {
    title: 'One thread, called from JavaScript',
    columns: [
      { name: 'operation', unit: 'text' },
      { name: 'buffer', unit: 'bytes' },
      { name: 'native', unit: 'bytes/s' },
      { name: 'portable', unit: 'bytes/s' },
      { name: 'portable time / native time', unit: 'ratio' },
    ],
    rows,
  };
}

/** Beside the benchmark that xxhsum has built in; b3sum has none. */
async function besideBenchmark([core]: readonly Core[], { smoke, note }: SuiteContext): Promise<Table[]> {
  if (!core || !(await isInstalled('xxhsum', note))) return [];
  note('xxhsum -b');
  const area = randomBytes(XXHSUM_SAMPLE_BYTES, 1);
  const ours: number[] = [];
  const theirs: number[] = [];
  for (let round = 0; round < (smoke ? 1 : 7); round++) {
    const contestant = { name: core.name, async: false, run: () => core.hash('xxh64', area) };
    const times = await contest([contestant], { rounds: 1, timeMs: smoke ? 1 : 1000, iterations: 10 });
    ours.push(...timesOf(times, core.name));
    theirs.push(await timeOfXxhsum());
  }
  const bytesPerSecond = (ms: number): number => (XXHSUM_SAMPLE_BYTES / ms) * 1000;
  return [
    {
      title: `xxh64 of ${XXHSUM_SAMPLE_BYTES / KiB} KiB, over and over`,
      columns: [
        { name: 'done by', unit: 'text' },
        { name: 'rate, median', unit: 'bytes/s' },
        { name: `${core.name} core / this`, unit: 'ratio' },
      ],
      rows: [
        [`${core.name} core`, bytesPerSecond(median(ours)), ratio(ours, ours)],
        ['xxhsum -b', bytesPerSecond(median(theirs)), ratio(ours, theirs)],
      ],
    },
  ];
}

/** What its benchmark works through at a time. */
const XXHSUM_SAMPLE_BYTES = 100 * KiB;

const execute = promisify(execFile);

/** How long its benchmark took for the sample, in ms. */
async function timeOfXxhsum(): Promise<number> {
  // The third of its variants is XXH64. Once, because it takes a second, and it shows the best of its runs.
  const { stdout, stderr } = await execute('xxhsum', ['-b3', '-i1']);
  const [, perSecond] = /XXH64 *: *102400 -> *(\d+) it\/s[^\r]*\s*$/.exec(stdout + stderr) ?? [];
  if (perSecond === undefined) throw new Error(`xxhsum did not tell its rate: ${stdout}${stderr}`);
  return 1000 / Number(perSecond);
}

const fileHashers: Readonly<Record<HashAlgorithm, { tool: string; command: string }[]>> = {
  xxh64: [{ tool: 'xxhsum', command: 'xxhsum -H1' }],
  blake3: [
    { tool: 'b3sum', command: 'b3sum --num-threads=1' },
    { tool: 'b3sum', command: 'b3sum' },
  ],
};

async function ofFiles([core]: readonly Core[], context: SuiteContext): Promise<Table[]> {
  if (!core) return [];
  await using directory = temporaryDirectory();
  const images =
    context.images.length > 0
      ? await diskImages(directory, context)
      : [await makeDiskImage(directory, 'random', context.smoke ? MiB : 256 * MiB)];
  const tables: Table[] = [];
  for (const { title, path, sizeBytes } of images) {
    for (const algorithm of ['xxh64', 'blake3'] as const) {
      context.note(`${algorithm} of ${title}`);
      const racers: Racer[] = [
        { name: `${core.name} core`, run: () => effortOfCall(() => hashFile(core, algorithm, path)) },
      ];
      for (const { tool, command } of fileHashers[algorithm]) {
        if (!(await isInstalled(tool, context.note))) continue;
        racers.push({ name: command, run: () => effortOfCommand(`${command} "$1"`, [path]) });
      }
      const results = await race(racers, context.smoke ? 1 : 9);
      const options = {
        title: `${algorithm} of ${title}`,
        names: ['hashed by'],
        ours: 1,
        rateOfBytes: sizeBytes,
      };
      tables.push(...comparisonTables(options, [{ labels: [], results }]));
    }
  }
  return tables;
}

const buffer = new Uint8Array(MiB);

async function hashFile(core: Core, algorithm: HashAlgorithm, path: string): Promise<void> {
  await using file = await open(path, 'r');
  for (;;) {
    const length = readSync(file.fd, buffer);
    if (length === 0) return;
    for (let start = 0; start < length; start += 64 * KiB) {
      core.hash(algorithm, buffer.subarray(start, Math.min(length, start + 64 * KiB)));
    }
  }
}
