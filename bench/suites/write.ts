import { openDevice, StorageServer } from 'cofferdam';
import { formatBytes, KiB, MiB } from '#src/runtime/sizes';
import type { CutSource } from '#src/servers/control';
import { memoryDirectory } from '../scratch.js';
import { contest, timesOf, type Contestant } from '../contest.js';
import { makeImage } from '../inputs.js';
import { median, ratio } from '../ratio.js';
import type { Report } from '../report.js';
import type { Suite, SuiteContext } from '../suite.js';

const WRITE_BYTES = 4 * KiB;

export const write: Suite = {
  name: 'write',
  summary: 'what a server, and a live snapshot, add to a write of 4 KiB',
  run,
};

async function run({ smoke, note }: SuiteContext): Promise<Report> {
  const sizeBytes = smoke ? 4 * MiB : 64 * MiB;
  await using directory = await memoryDirectory(4 * sizeBytes);
  const [bare, behind] = [directory.file('bare.img'), directory.file('served.img')];
  for (const path of [bare, behind]) await makeImage(path, sizeBytes, 'random');
  await using device = await openDevice(bare);
  const served = { id: 'served', device: await openDevice(behind) };
  await using server = new StorageServer({ ...served, preImages: { directory: directory.path } });
  note('writes one after the other');
  const blockSizes = smoke ? [64 * KiB] : [4 * KiB, 64 * KiB, MiB];
  const contestants: Contestant[] = [
    { name: 'the device', run: () => device.write(0, bytes) },
    { name: 'through the server', run: () => server.client.write(0, bytes) },
    ...blockSizes.flatMap((blockSizeBytes) => underSnapshot(server, blockSizeBytes)),
  ];
  const effort = smoke ? { rounds: 1, iterations: 4 } : { rounds: 9, timeMs: 50, iterations: 50 };
  const times = await contest(contestants, effort);
  const base = timesOf(times, 'the device');
  return {
    tables: [
      {
        title: 'A write of 4 KiB to a file in memory, one at a time',
        columns: [
          { name: 'write', unit: 'text' },
          { name: 'median', unit: 'ms' },
          { name: 'time against the device alone', unit: 'ratio' },
        ],
        rows: contestants.map(({ name }) => {
          const own = timesOf(times, name);
          return [name, median(own), ratio(own, base)];
        }),
      },
    ],
    notes: [
      'The first write to a block under a snapshot saves what the whole block held before; later ones do not.',
    ],
  };
}

const bytes = new Uint8Array(WRITE_BYTES).fill(0xc1);

/** Writes to a server of which there is a snapshot, made anew for each write and not measured. */
function underSnapshot(server: StorageServer, blockSizeBytes: number): Contestant[] {
  const write = (): Promise<void> => server.client.write(0, bytes);
  let source: CutSource;
  const before = async (): Promise<void> => {
    source = await snapshot(server, blockSizeBytes);
  };
  const after = (): Promise<void> => source.close();
  const name = `snapshot, blocks of ${formatBytes(blockSizeBytes)}`;
  return [
    { name: `${name}, first write to a block`, before, run: write, after },
    { name: `${name}, later write`, before: () => before().then(write), run: write, after },
  ];
}

let epoch = 0;

async function snapshot(server: StorageServer, blockSizeBytes: number): Promise<CutSource> {
  const ticket = { epoch: ++epoch, coordinator: 'bench' };
  const request = { ...ticket, leaseMs: 60_000, fixedBy: 'snapshot', blockSizeBytes } as const;
  const { source } = await server.cut(request);
  await server.release(ticket);
  return source;
}
