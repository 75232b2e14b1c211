import { execFile } from 'node:child_process';
import { basename } from 'node:path';
import { promisify } from 'node:util';
import { openDevice } from 'cofferdam';
import { findTool } from '#src/cli/demo/tool';
import { formatBytes, GiB, MiB } from '#src/runtime/sizes';
import type { TemporaryDirectory } from '../../test/support/directory.js';
import { cofferdamDisks } from '../cofferdam-disks.js';
import { makeImage } from '../inputs.js';
import { qemuDisks } from '../qemu-disks.js';
import type { Report } from '../report.js';
import { memoryDirectory } from '../scratch.js';
import type { Disk, ServingSystem } from '../served-disks.js';
import { besidePeer, distributions, growth, waits, type DiskSet } from '../stall-report.js';
import { observeStalls } from '../stall-rounds.js';
import type { Suite, SuiteContext } from '../suite.js';
import { isInstalled } from '../ways-to-copy.js';

export const stall: Suite = {
  name: 'stall',
  summary: "how long clients' writes wait during a backup, by strategy, and during one of QEMU",
  takesImages: true,
  run,
};

const DISKS = 4;

async function run({ smoke, images, note }: SuiteContext): Promise<Report> {
  if ((await findTool('fio')) === undefined) {
    throw new Error('there is no fio on the PATH; install it to measure stalls');
  }
  const systems: ServingSystem[] = [cofferdamDisks];
  if (await isInstalled('qemu-storage-daemon', note)) systems.push(qemuDisks);
  const plan = smoke
    ? { depths: [1], rounds: 1, durationMs: 200 }
    : { depths: [1, 32], rounds: 3, durationMs: 3000 };
  const sets: DiskSet[] = [];
  for (const { title, bytes, make } of images.length > 0 ? [copiesOf(images)] : madeSets(smoke)) {
    // The disks, what pre-images spill, and a backup.
    await using directory = await memoryDirectory(3 * (await bytes()));
    const disks = await make(directory);
    const subjects = await observeStalls(systems, disks, directory, plan, (text) =>
      note(`${title}: ${text}`),
    );
    sets.push({ title, subjects });
  }
  return {
    tables: [
      ...sets.map(waits),
      ...(systems.length > 1 ? sets.map((set) => besidePeer(set, cofferdamDisks.name, qemuDisks.name)) : []),
      ...growth(sets),
    ],
    plots: sets.flatMap(distributions),
    notes,
  };
}

const notes = [
  'fio writes 4 KiB at random places of every disk over NBD, one connection per disk, and each client sends as soon ' +
    'as its last write was answered, with 1 or 32 under way: a stall is met by no more writes than are under way, so look at ' +
    'the largest latency and the throughput too. Backups of all disks follow one another for as long as it writes. The ' +
    'systems take turns on the same files. Throughput kept is that of this row by that without a backup, in the same round.',
  'A stall is what the certificates of the backups say, from the first barrier up to the last one down. QEMU copies by a ' +
    'transaction of one blockdev-backup job per disk, to raw files, and neither hashes nor syncs what it copied.',
];

interface DiskSource {
  title: string;
  bytes: () => Promise<number>;
  make: (directory: TemporaryDirectory) => Promise<Disk[]>;
}

function madeSets(smoke: boolean): DiskSource[] {
  return (smoke ? [4 * MiB] : [64 * MiB, GiB]).map((sizeBytes) => ({
    title: `${DISKS} disks of ${formatBytes(sizeBytes)}`,
    bytes: () => Promise.resolve(DISKS * sizeBytes),
    make: async (directory) => {
      const disks = Array.from({ length: DISKS }, (_, i): Disk => {
        return { path: directory.file(`disk${i}.img`), sizeBytes };
      });
      for (const { path } of disks) await makeImage(path, sizeBytes, 'random');
      return disks;
    },
  }));
}

const execute = promisify(execFile);

/** The user's own images are copied, because the disks are written to. */
function copiesOf(images: readonly string[]): DiskSource {
  return {
    title: `copies of ${images.map((path) => basename(path)).join(', ')}`,
    bytes: async () => (await Promise.all(images.map(sizeOf))).reduce((total, bytes) => total + bytes, 0),
    make: (directory) =>
      Promise.all(
        images.map(async (image, i) => {
          const path = directory.file(`disk${i}.img`);
          await execute('cp', [image, path]);
          return { path, sizeBytes: await sizeOf(path) };
        }),
      ),
  };
}

async function sizeOf(path: string): Promise<number> {
  await using device = await openDevice(path, { readOnly: true });
  return device.sizeBytes;
}
