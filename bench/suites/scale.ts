import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { openCluster, type Cluster, type StorageServer } from 'cofferdam';
import { GroupCut } from '#src/backup/cut';
import { realClock } from '#src/runtime/clock';
import { GiB, KiB, MiB } from '#src/runtime/sizes';
import { UNIT_BYTES } from '#src/servers/copy-before-write';
import { temporaryDirectory } from '../../test/support/directory.js';
import { contest, timesOf } from '../contest.js';
import { heldMemory } from '../held-memory.js';
import { median, percentile } from '../ratio.js';
import type { Axis, Cell, Plot, Report, Series, Table } from '../report.js';
import type { Suite, SuiteContext } from '../suite.js';
import { ClosedLoopWriters } from '../writers.js';

const DEVICE_BYTES = 16 * MiB;
const WRITERS = 16;
const TiB = 1024 * GiB;

export const scale: Suite = {
  name: 'scale',
  summary: 'cuts over up to a thousand servers in this process, and memory per server and per TiB',
  run,
};

async function run(context: SuiteContext): Promise<Report> {
  const sizes: ClusterSize[] = [];
  // The first cluster of a process loads and compiles what later ones use.
  await measureCluster(1, true, () => {});
  for (const servers of context.smoke ? [1, 10] : [1, 10, 100, 1000]) {
    sizes.push(await measureCluster(servers, context.smoke, context.note));
  }
  return {
    tables: [cutTable(sizes), await mapTable(context)],
    plots: [stallPlot(sizes), memoryPlot(sizes)],
    notes: [
      'A whole cut, by copy-before-write, is what its coordinator waits for. The stall is the time from the first barrier ' +
        'going up to the last coming down; no write waits longer for it. Each server has a file in memory; each writer ' +
        'writes 4 KiB at a time to one of the servers.',
      'Memory per server is what the heap and the buffers outside of it hold after a collection of garbage, beyond what ' +
        'they held before. Maps are two bits per block and one per 4 KiB, and come into memory only where bits are set.',
    ],
  };
}

/** What was measured of a cluster of one size. */
interface ClusterSize {
  servers: number;
  bytesPerServer: number;
  cuts: Cuts[];
}

interface Cuts {
  writers: number;
  medianMs: number;
  stallsMs: number[];
}

async function measureCluster(
  count: number,
  smoke: boolean,
  note: (text: string) => void,
): Promise<ClusterSize> {
  const bytesPerServer = await measureMemory(count);
  await using directory = temporaryDirectory({ inMemory: true });
  await using cluster = await openServers(directory.path, count);
  const cuts: Cuts[] = [];
  for (const writers of [0, WRITERS]) {
    note(`${count} servers, ${writers} writers`);
    cuts.push(await measureCuts(cluster, writers, smoke));
  }
  return { servers: count, bytesPerServer, cuts };
}

/** Of many small clusters together: what one of them holds would not be seen. */
async function measureMemory(count: number): Promise<number> {
  const clusterCount = Math.ceil(100 / count);
  await using directory = temporaryDirectory({ inMemory: true });
  const paths = Array.from({ length: clusterCount }, (_, i) => directory.file(`${i}`));
  for (const path of paths) await mkdir(path);
  const { made, heldBytes } = await heldMemory(() =>
    Promise.all(paths.map((path) => openServers(path, count))),
  );
  for (const cluster of made) await cluster.close();
  return heldBytes / (clusterCount * count);
}

function openServers(directory: string, count: number): Promise<Cluster> {
  return openCluster({
    servers: Array.from({ length: count }, (_, i) => {
      return {
        id: `s${i}`,
        device: { kind: 'file', path: join(directory, `${i}.img`), create: DEVICE_BYTES },
        // Writes during a cut's life make pre-images; they are given up at its end.
        preImages: { directory },
      };
    }),
  });
}

async function measureCuts({ servers }: Cluster, writers: number, smoke: boolean): Promise<Cuts> {
  const clients = servers.map((server) => server.client);
  const written = clients.flatMap((client, i) => {
    const each = Math.floor(writers / clients.length) + (i < writers % clients.length ? 1 : 0);
    return Array.from({ length: each }, () => client);
  });
  const stallsMs: number[] = [];
  const cutOnce = async (): Promise<void> => {
    await using group = await GroupCut.raise(servers, {
      clock: realClock,
      fixedBy: 'snapshot',
      blockSizeBytes: 64 * KiB,
      maxStallMs: 30_000,
    });
    const certificate = await group.finish();
    stallsMs.push(certificate.group.stallMs);
  };
  await using _writers = new ClosedLoopWriters(written, 1);
  const effort = smoke ? { rounds: 1, iterations: 2 } : { rounds: 5, timeMs: 200, iterations: 20 };
  const times = await contest([{ name: 'cut', run: cutOnce }], effort);
  return { writers, medianMs: median(timesOf(times, 'cut')), stallsMs };
}

function cutTable(sizes: readonly ClusterSize[]): Table {
  return {
    title: 'Cuts by the number of servers',
    columns: [
      { name: 'servers', unit: 'count' },
      { name: 'writers', unit: 'count' },
      { name: 'whole cut, median', unit: 'ms' },
      { name: 'stall, median', unit: 'ms' },
      { name: 'stall, p99', unit: 'ms' },
      { name: 'stall per server, median', unit: 'ms' },
      { name: 'memory per server', unit: 'bytes' },
    ],
    rows: sizes.flatMap(({ servers, bytesPerServer, cuts }) =>
      cuts.map(({ writers, medianMs, stallsMs }): Cell[] => {
        const stallMs = median(stallsMs);
        const p99Ms = percentile(stallsMs, 99);
        return [servers, writers, medianMs, stallMs, p99Ms, stallMs / servers, bytesPerServer];
      }),
    ),
  };
}

const serversAxis: Axis = { name: 'servers', unit: 'count', scale: 'log' };

function stallPlot(sizes: readonly ClusterSize[]): Plot {
  const percentages = { median: 50, p99: 99 };
  return {
    title: 'Stall of a cut by the number of servers',
    x: serversAxis,
    y: { name: 'stall', unit: 'ms', scale: 'log' },
    series: [0, WRITERS].flatMap((writers) =>
      Object.entries(percentages).map(([name, percentage]): Series => {
        const points = sizes.flatMap(({ servers, cuts }) =>
          cuts
            .filter((cut) => cut.writers === writers)
            .map(({ stallsMs }): [number, number] => [servers, percentile(stallsMs, percentage)]),
        );
        return { name: `${writers} writers, ${name}`, points };
      }),
    ),
  };
}

function memoryPlot(sizes: readonly ClusterSize[]): Plot {
  return {
    title: 'Memory per server by the number of servers',
    x: serversAxis,
    y: { name: 'memory per server', unit: 'bytes', scale: 'linear' },
    series: [
      { name: 'at rest', points: sizes.map(({ servers, bytesPerServer }) => [servers, bytesPerServer]) },
    ],
  };
}

/** The bitmaps of a snapshot of a large device. */
async function mapTable({ smoke, note }: SuiteContext): Promise<Table> {
  const sizeBytes = smoke ? GiB : TiB;
  await using directory = temporaryDirectory({ inMemory: true });
  await using cluster = await openCluster({
    servers: [
      { id: 'large', device: { kind: 'file', path: directory.file('large.img'), create: sizeBytes } },
    ],
  });
  const server = cluster.server('large');
  const rows: Cell[][] = [];
  for (const blockSizeBytes of smoke ? [64 * KiB] : [4 * KiB, 64 * KiB, MiB]) {
    note(`maps of a snapshot, blocks of ${blockSizeBytes} bytes`);
    let mapBytes = 0;
    const cut = async (): Promise<void> => void (mapBytes = await snapshotOnce(server, blockSizeBytes));
    const times = await contest([{ name: 'cut', run: cut }], { rounds: smoke ? 1 : 9 });
    const perTiB = mapBytes / (sizeBytes / TiB);
    rows.push([sizeBytes, blockSizeBytes, mapBytes, perTiB, median(timesOf(times, 'cut'))]);
  }
  return {
    title: 'Maps of a snapshot, by the size of its blocks',
    columns: [
      { name: 'device', unit: 'bytes' },
      { name: 'blocks', unit: 'bytes' },
      { name: 'maps', unit: 'bytes' },
      { name: 'maps per TiB', unit: 'bytes' },
      { name: 'made and given up in, median', unit: 'ms' },
    ],
    rows,
  };
}

let epoch = 0;

/** Makes a snapshot and gives it up. */
async function snapshotOnce(server: StorageServer, blockSizeBytes: number): Promise<number> {
  const ticket = { epoch: ++epoch, coordinator: 'bench' };
  const request = { ...ticket, leaseMs: 60_000, fixedBy: 'snapshot', blockSizeBytes } as const;
  const { source } = await server.cut(request);
  await server.release(ticket);
  const marks = source.native?.marks;
  if (!marks) throw new Error('a snapshot of a file shares its maps');
  const unitBytes = Math.ceil(server.sizeBytes / UNIT_BYTES / 8);
  const mapBytes = marks.preserved.byteLength + marks.copied.byteLength + unitBytes;
  await source.close();
  return mapBytes;
}
