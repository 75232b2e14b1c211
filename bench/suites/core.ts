import { closeSync, fstatSync, openSync, readSync, writeSync } from 'node:fs';
import { hashLengthBytes, type Core, type HashAlgorithm } from '#src/core/core';
import { KiB, MiB } from '#src/runtime/sizes';
import { memoryDirectory } from '../scratch.js';
import { contest, timesOf, type Contestant } from '../contest.js';
import { availableCores } from '../cores.js';
import { makeImage, type Filling } from '../inputs.js';
import { median, ratio } from '../ratio.js';
import type { Cell, Report } from '../report.js';
import type { Suite, SuiteContext } from '../suite.js';

const BLOCK_BYTES = 64 * KiB;
/** Blocks per job, as in a backup: those of a leaf of the block map. */
const JOB_BLOCKS = 256;

export const core: Suite = {
  name: 'core',
  summary: 'the copy core on one thread, against a bare loop of read and write',
  run,
};

const fillings: readonly Filling[] = ['random', 'half zeros', 'sparse'];

async function run({ smoke, note }: SuiteContext): Promise<Report> {
  const sizeBytes = smoke ? 2 * MiB : 64 * MiB;
  // In memory where the machine has such a place: it is the core that is measured, not a disk.
  await using directory = await memoryDirectory(6 * sizeBytes);
  const cores = await availableCores();
  const rows: Cell[][] = [];
  for (const filling of fillings) {
    const path = directory.file(`${filling}.img`);
    await makeImage(path, sizeBytes, filling);
    for (const target of ['file', 'nowhere'] as const) {
      note(`${filling}, to ${target}`);
      const sinkPath = target === 'file' ? directory.file('sink') : '/dev/null';
      using files = new Files(path, sinkPath);
      const times = await contest(
        contestants(cores, files),
        smoke ? { rounds: 1 } : { rounds: 9, timeMs: 100 },
      );
      const bare = timesOf(times, 'bare');
      rows.push([filling, target, (sizeBytes / median(bare)) * 1000, ...comparisons(times, bare)]);
    }
  }
  return {
    tables: [
      {
        title: `An image of ${sizeBytes / MiB} MiB in memory; time against that of the bare loop (less is better)`,
        columns: [
          { name: 'image', unit: 'text' },
          { name: 'target', unit: 'text' },
          { name: 'bare loop', unit: 'bytes/s' },
          ...variants.map(({ name }) => ({ name, unit: 'ratio' as const })),
        ],
        rows,
      },
    ],
    notes: [
      'The bare loop reads and writes all of the image, a megabyte at a time. The core finds holes, tests for zeros, ' +
        'hashes and keeps records as well. Target "nowhere" is /dev/null.',
    ],
  };
}

const variants: { name: string; core: string; algorithm: HashAlgorithm }[] = [
  { name: 'native xxh64', core: 'native', algorithm: 'xxh64' },
  { name: 'native blake3', core: 'native', algorithm: 'blake3' },
  { name: 'portable xxh64', core: 'portable', algorithm: 'xxh64' },
];

function contestants(cores: readonly Core[], files: Files): Contestant[] {
  const bare: Contestant = { name: 'bare', async: false, run: () => copyBare(files) };
  const ours = variants.flatMap(({ name, core: coreName, algorithm }): Contestant[] => {
    const found = cores.find((candidate) => candidate.name === coreName);
    return found ? [{ name, async: false, run: () => copyWith(found, files, algorithm) }] : [];
  });
  return [bare, ...ours];
}

function comparisons(times: ReadonlyMap<string, number[]>, bare: readonly number[]): Cell[] {
  return variants.map(({ name }) => {
    const own = times.get(name);
    return own ? ratio(own, bare) : null;
  });
}

/** The image and the sink, open. */
class Files implements Disposable {
  readonly source: number;
  readonly sink: number;
  readonly sizeBytes: number;

  constructor(sourcePath: string, sinkPath: string) {
    this.source = openSync(sourcePath, 'r');
    this.sink = openSync(sinkPath, 'w');
    this.sizeBytes = fstatSync(this.source).size;
  }

  [Symbol.dispose](): void {
    closeSync(this.source);
    closeSync(this.sink);
  }
}

const buffer = new Uint8Array(MiB);

function copyBare({ source, sink, sizeBytes }: Files): void {
  for (let offset = 0; offset < sizeBytes; offset += buffer.length) {
    readSync(source, buffer, 0, buffer.length, offset);
    writeSync(sink, buffer, 0, buffer.length, offset);
  }
}

function copyWith(core: Core, { source, sink, sizeBytes }: Files, algorithm: HashAlgorithm): void {
  const blockCount = sizeBytes / BLOCK_BYTES;
  const cursor = new BigInt64Array(new SharedArrayBuffer(8));
  const progress = new BigInt64Array(new SharedArrayBuffer(16));
  const cancel = new Int32Array(new SharedArrayBuffer(4));
  for (let firstBlock = 0; firstBlock < blockCount; firstBlock += JOB_BLOCKS) {
    const count = Math.min(JOB_BLOCKS, blockCount - firstBlock);
    core.copy({
      source: { fd: source },
      deviceSizeBytes: sizeBytes,
      blockSizeBytes: BLOCK_BYTES,
      firstBlock,
      blockCount: count,
      algorithm,
      sink: { fd: sink },
      cursor,
      capacityBytes: Number.MAX_SAFE_INTEGER,
      cancel,
      progress,
      states: new Uint8Array(new SharedArrayBuffer(count)),
      offsets: new Float64Array(new SharedArrayBuffer(count * 8)),
      hashes: new Uint8Array(new SharedArrayBuffer(count * hashLengthBytes[algorithm])),
    });
  }
}
