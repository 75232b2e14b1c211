import { openCluster, type Cluster } from 'cofferdam';
import { GroupCut } from '#src/backup/cut';
import { realClock } from '#src/runtime/clock';
import { KiB, MiB } from '#src/runtime/sizes';
import { temporaryDirectory, type TemporaryDirectory } from '../../test/support/directory.js';
import { contest, timesOf } from '../contest.js';
import { median, percentile } from '../ratio.js';
import type { Cell, Report } from '../report.js';
import type { Suite, SuiteContext } from '../suite.js';
import { ClosedLoopWriters } from '../writers.js';

const DEVICE_BYTES = 16 * MiB;
const WRITERS = 16;

export const scale: Suite = {
  name: 'scale',
  summary: 'a cut over servers in this process: raise all, drain, fix, release',
  run,
};

async function run({ smoke, note }: SuiteContext): Promise<Report> {
  const rows: Cell[][] = [];
  for (const count of smoke ? [1, 10] : [1, 10, 100, 1000]) {
    await using directory = temporaryDirectory({ inMemory: true });
    await using cluster = await openServers(directory, count);
    for (const writers of [0, WRITERS]) {
      note(`${count} servers, ${writers} writers`);
      rows.push([count, writers, ...(await measure(cluster, writers, smoke))]);
    }
  }
  return {
    tables: [
      {
        title: 'Cuts that fix the contents by copy-before-write',
        columns: [
          { name: 'servers', unit: 'count' },
          { name: 'writers', unit: 'count' },
          { name: 'whole cut, median', unit: 'ms' },
          { name: 'stall, median', unit: 'ms' },
          { name: 'stall, p99', unit: 'ms' },
          { name: 'stall per server, median', unit: 'ms' },
        ],
        rows,
      },
    ],
    notes: [
      'A whole cut is what its coordinator waits for. The stall is the time from the first barrier going up to the ' +
        'last coming down; no write waits longer for it. Each server has a file in memory; each writer writes 4 KiB ' +
        'at a time to one of the servers.',
    ],
  };
}

function openServers(directory: TemporaryDirectory, count: number): Promise<Cluster> {
  return openCluster({
    servers: Array.from({ length: count }, (_, i) => {
      return {
        id: `s${i}`,
        device: { kind: 'file', path: directory.file(`${i}.img`), create: DEVICE_BYTES },
        // Writes during a cut's life make pre-images; they are given up at its end.
        preImages: { directory: directory.path },
      };
    }),
  });
}

async function measure({ servers }: Cluster, writers: number, smoke: boolean): Promise<Cell[]> {
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
  const stallMs = median(stallsMs);
  return [median(timesOf(times, 'cut')), stallMs, percentile(stallsMs, 99), stallMs / servers.length];
}
