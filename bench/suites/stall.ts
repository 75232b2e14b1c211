import { rm } from 'node:fs/promises';
import { backup, openCluster, type StorageServer } from 'cofferdam';
import { CopyPool } from '#src/backup/pool';
import { loadCore } from '#src/core/load';
import { realClock, sleep } from '#src/runtime/clock';
import { formatBytes, GiB, MiB } from '#src/runtime/sizes';
import { temporaryDirectory } from '../../test/support/directory.js';
import { makeImage } from '../inputs.js';
import { median, percentile, ratio } from '../ratio.js';
import type { Cell, Report, Table } from '../report.js';
import type { Suite, SuiteContext } from '../suite.js';
import { SteadyWriter } from '../writers.js';

const WRITES_PER_MS = 1;

/** What goes on while the client writes. */
const activities = ['no backup', 'snapshot', 'rolling', 'hold'] as const;
type Activity = (typeof activities)[number];

export const stall: Suite = {
  name: 'stall',
  summary: "how long a client's writes wait during a backup, by strategy and size of the device",
  run,
};

/** One activity on a device of one size. */
interface Subject {
  server: StorageServer;
  activity: Activity;
  rounds: Observation[];
}

/** What was seen in one round: of every write how long it took, of every backup its stall and its time, all in ms. */
interface Observation {
  latenciesMs: number[];
  stallsMs: number[];
  backupsMs: number[];
}

async function run({ smoke, note }: SuiteContext): Promise<Report> {
  const [smallBytes, largeBytes] = smoke ? [MiB, 4 * MiB] : [16 * MiB, GiB];
  await using directory = temporaryDirectory();
  for (const sizeBytes of [smallBytes, largeBytes]) {
    await makeImage(directory.file(`${sizeBytes}.img`), sizeBytes, 'random');
  }
  await using cluster = await openCluster({
    servers: [smallBytes, largeBytes].map((size) => ({
      id: `${size}`,
      device: directory.file(`${size}.img`),
      preImages: { directory: directory.path },
    })),
  });
  await using pool = await CopyPool.start(await loadCore());
  const subjects = activities.flatMap((activity) =>
    cluster.servers.map((server): Subject => ({ server, activity, rounds: [] })),
  );
  const rounds = smoke ? 1 : 7;
  for (let round = 1; round <= rounds; round++) {
    for (const { server, activity, rounds: seen } of subjects) {
      note(`round ${round} of ${rounds}: ${activity}, ${formatBytes(server.sizeBytes)}`);
      seen.push(await observe(server, activity, { to: directory.file('image'), pool }, smoke ? 20 : 1000));
    }
  }
  return { tables: [waits(subjects), growth(subjects)], notes: [explanation] };
}

const explanation =
  `One client sends ${WRITES_PER_MS} writes of 4 KiB every millisecond to random places, answered or not; a write takes ` +
  'from when it is due to when it is answered, so all writes that fall due during a stall meet it. Timers are up to a ' +
  'millisecond late, which the rows without a backup show. A stall is what the certificates of the backups say.';

/** Runs backups, or none, for at least `durationMs`, while the client writes. */
async function observe(
  server: StorageServer,
  activity: Activity,
  options: { to: string; pool: CopyPool },
  durationMs: number,
): Promise<Observation> {
  const seen: Observation = { latenciesMs: [], stallsMs: [], backupsMs: [] };
  for (let spentMs = 0; spentMs < durationMs;) {
    await rm(options.to, { force: true });
    const startMs = performance.now();
    await using writer = new SteadyWriter(server.client, WRITES_PER_MS, startMs);
    if (activity === 'no backup') {
      await sleep(realClock, durationMs);
    } else {
      const { cut, elapsedMs } = await backup({ servers: [server], strategy: activity, ...options });
      seen.stallsMs.push(cut.group.stallMs);
      seen.backupsMs.push(elapsedMs);
    }
    spentMs += performance.now() - startMs;
    await writer.stop();
    seen.latenciesMs = seen.latenciesMs.concat(writer.latenciesMs);
  }
  return seen;
}

function waits(subjects: readonly Subject[]): Table {
  return {
    title: 'Writes during backups',
    columns: [
      { name: 'during', unit: 'text' },
      { name: 'device', unit: 'bytes' },
      { name: 'writes', unit: 'count' },
      { name: 'p50', unit: 'ms' },
      { name: 'p99', unit: 'ms' },
      { name: 'p99.9', unit: 'ms' },
      { name: 'max', unit: 'ms' },
      { name: 'stall, median', unit: 'ms' },
      { name: 'stall, max', unit: 'ms' },
      { name: 'a backup, median', unit: 'ms' },
    ],
    rows: subjects.map(({ server, activity, rounds }) => {
      const latenciesMs = rounds.flatMap((seen) => seen.latenciesMs);
      const stallsMs = rounds.flatMap((seen) => seen.stallsMs);
      return [
        activity,
        server.sizeBytes,
        latenciesMs.length,
        ...[50, 99, 99.9, 100].map((percentage) => percentile(latenciesMs, percentage)),
        ...[50, 100].map((percentage) => (stallsMs.length > 0 ? percentile(stallsMs, percentage) : null)),
        activity === 'no backup' ? null : median(rounds.flatMap((seen) => seen.backupsMs)),
      ];
    }),
  };
}

/** Compares, round by round, the two sizes. */
function growth(subjects: readonly Subject[]): Table {
  return {
    title: 'The larger device against the smaller one',
    columns: [
      { name: 'during', unit: 'text' },
      { name: 'p50', unit: 'ratio' },
      { name: 'p99', unit: 'ratio' },
      { name: 'stall, median', unit: 'ratio' },
    ],
    rows: activities.map((activity): Cell[] => {
      const [small = [], large = []] = subjects
        .filter((subject) => subject.activity === activity)
        .map((subject) => subject.rounds);
      const compare = (measure: (seen: Observation) => number): Cell =>
        ratio(large.map(measure), small.map(measure));
      return [
        activity,
        compare((seen) => percentile(seen.latenciesMs, 50)),
        compare((seen) => percentile(seen.latenciesMs, 99)),
        activity === 'no backup' ? null : compare((seen) => median(seen.stallsMs)),
      ];
    }),
  };
}
