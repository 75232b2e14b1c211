import { open, rm } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openDevice } from 'cofferdam';
import { CopyPool } from '#src/backup/pool';
import { findTool, runTool } from '#src/cli/demo/tool';
import { loadCore } from '#src/core/load';
import { formatBytes, MiB } from '#src/runtime/sizes';
import { temporaryDirectory, type TemporaryDirectory } from '../../test/support/directory.js';
import { contest, timesOf, type Contestant } from '../contest.js';
import { makeImage, type Filling } from '../inputs.js';
import { median, ratio } from '../ratio.js';
import type { Cell, Column, Report, Table } from '../report.js';
import type { Suite, SuiteContext } from '../suite.js';
import { backupCommand, backupFunction, installedPeers, type WayToCopy } from '../ways-to-copy.js';

export const backup: Suite = {
  name: 'backup',
  summary: 'a whole backup beside cp, qemu-img convert and nbdcopy',
  run,
};

async function run({ smoke, images, note }: SuiteContext): Promise<Report> {
  await using directory = temporaryDirectory();
  await using pool = await CopyPool.start(await loadCore());
  const ways = [backupCommand, backupFunction(pool), ...(await installedPeers())];
  const sources =
    images.length > 0
      ? images.map((path) => ({ title: basename(path), path }))
      : await makeSources(directory, smoke);
  const tables: Table[] = [];
  for (const { title, path } of sources) {
    const sizeBytes = await sizeOf(path);
    const rows: Cell[][] = [];
    for (const isFresh of [true, false]) {
      note(`${title}, target ${isFresh ? 'fresh' : 'in place'}`);
      const targets = ways.map((way, i) => new Target(way, path, directory.file(`${i}`), sizeBytes));
      const contestants: Contestant[] = [];
      for (const target of targets) contestants.push(await (isFresh ? target.fresh() : target.inPlace()));
      const times = await contest(contestants, { rounds: smoke ? 1 : 9 });
      rows.push(...compare(ways, times, isFresh ? 'fresh' : 'in place', sizeBytes));
      for (const target of targets) await target.remove();
    }
    tables.push({ title: `${title}, ${formatBytes(sizeBytes)}`, columns, rows });
  }
  return { tables, notes: explanations };
}

const columns: Column[] = [
  { name: 'target', unit: 'text' },
  { name: 'copied by', unit: 'text' },
  { name: 'time, median', unit: 'ms' },
  { name: 'image per time', unit: 'bytes/s' },
  { name: 'cofferdam / this', unit: 'ratio' },
  { name: 'backup() / this', unit: 'ratio' },
];

const explanations = [
  'Times are until the copy is durable: a backup is when it ends, the others are followed by sync FILE. They take turns, ' +
    'and a ratio is our time by the time of this one in the same round: less is better. "cofferdam" is the whole command, ' +
    'the start of Node included; "backup()" is the function in a process and with threads that are running already.',
  'A fresh target did not exist before, or was a file of holes for those that need one. A target in place has its blocks ' +
    'from an earlier copy; cp gives them up first, and an image is wound back to before its only generation.',
];

function compare(
  ways: readonly WayToCopy[],
  times: ReadonlyMap<string, number[]>,
  target: string,
  sizeBytes: number,
): Cell[][] {
  const [command = [], call = []] = ways.map(({ name }) => timesOf(times, name));
  return ways.map(({ name }) => {
    const own = timesOf(times, name);
    const ms = median(own);
    return [target, name, ms, (sizeBytes / ms) * 1000, ratio(command, own), ratio(call, own)];
  });
}

/** Where one of the ways to copy puts its copies of an image. */
class Target {
  readonly #run: () => Promise<unknown>;

  constructor(
    private readonly way: WayToCopy,
    source: string,
    private readonly path: string,
    private readonly sizeBytes: number,
  ) {
    this.#run = () => way.copy(source, path);
  }

  fresh(): Contestant {
    return { name: this.way.name, before: () => this.#renew(), run: this.#run };
  }

  async inPlace(): Promise<Contestant> {
    await this.#renew();
    await this.#run();
    return { name: this.way.name, before: () => this.way.windBack?.(this.path), run: this.#run };
  }

  async remove(): Promise<void> {
    await rm(this.path, { force: true });
    // Else the file system would free the blocks while the next one is measured.
    await using directory = await open(dirname(this.path), 'r');
    await directory.sync();
  }

  async #renew(): Promise<void> {
    await this.remove();
    if (!this.way.needsTarget) return;
    await using file = await open(this.path, 'wx');
    await file.truncate(this.sizeBytes);
    await file.sync();
  }
}

async function sizeOf(path: string): Promise<number> {
  await using device = await openDevice(path, { readOnly: true });
  return device.sizeBytes;
}

interface Source {
  title: string;
  path: string;
}

async function makeSources(directory: TemporaryDirectory, smoke: boolean): Promise<Source[]> {
  const wanted: { filling: Filling; sizeBytes: number }[] = smoke
    ? [{ filling: 'half zeros', sizeBytes: MiB }]
    : [
        { filling: 'random', sizeBytes: MiB },
        { filling: 'random', sizeBytes: 512 * MiB },
        { filling: 'half zeros', sizeBytes: 512 * MiB },
      ];
  const sources: Source[] = [];
  for (const { filling, sizeBytes } of wanted) {
    const path = directory.file(`${filling}-${sizeBytes}.img`);
    await makeImage(path, sizeBytes, filling);
    sources.push({ title: filling, path });
  }
  const fileSystem = smoke ? undefined : await makeFileSystem(directory.file('ext4.img'));
  return fileSystem ? [...sources, fileSystem] : sources;
}

const packages = fileURLToPath(new URL('../../node_modules', import.meta.url));

/** A real file system with real files: the packages that this one depends on. */
async function makeFileSystem(path: string): Promise<Source | undefined> {
  const mke2fs = await findTool('mke2fs');
  if (!mke2fs) return undefined;
  const args = ['-q', '-F', '-t', 'ext4', '-d', packages, path, '512m'];
  const { succeeded, output } = await runTool(mke2fs, args, new AbortController().signal);
  if (!succeeded) throw new Error(output);
  return { title: 'ext4 with the files of node_modules', path };
}
