import { afterEach, expect, test, vi } from 'vitest';
import { NbdDevice, witnessRun, type Cluster } from 'cofferdam';
import { loadCore } from '#src/core/load';
import { Random } from '#src/runtime/random';
import { KiB, MiB } from '#src/runtime/sizes';
import type { StorageServer } from '#src/servers/server';
import { describeVerdict } from '#src/witness/verdict';
import type { Strategy } from '#src/backup/image/record';
import { temporaryDirectory } from '../support/directory.js';
import { noteNativeSnapshots } from '../support/native-snapshots.js';
import { testSeed } from '../support/seed.js';
import { serveCluster, type ServedCluster } from './cluster.js';

const runs = Number(process.env['RUNS'] ?? 30);
const ids = ['a', 'b', 'c', 'd'];
const core = await loadCore();
const nativeTest = core.newWatch ? test : test.skip;

afterEach(() => {
  vi.restoreAllMocks();
});

/** The servers of a service, whose clients reach them over NBD. */
async function overNbd(served: ServedCluster): Promise<Cluster & AsyncDisposable> {
  const members = ids.map(async (id) => {
    const server: StorageServer = served.service.cluster.server(id);
    const client = await NbdDevice.open(served.service.uriOf(id));
    return {
      id,
      sizeBytes: server.sizeBytes,
      identities: server.identities,
      client,
      status: () => server.status(),
      cut: (...args: Parameters<StorageServer['cut']>) => server.cut(...args),
      renew: (...args: Parameters<StorageServer['renew']>) => server.renew(...args),
      release: (...args: Parameters<StorageServer['release']>) => server.release(...args),
      stopTracking: (epoch: number) => server.stopTracking(epoch),
    };
  });
  const servers = await Promise.all(members);
  const cluster = {
    servers,
    async [Symbol.asyncDispose]() {
      await Promise.all(servers.map(({ client }) => client.close()));
    },
  };
  // The witness asks a cluster for its servers, and those for these, and no more.
  return cluster as unknown as Cluster & AsyncDisposable;
}

async function judgedRun(strategy: Strategy, closingCut: boolean, seed: number): Promise<boolean> {
  const random = new Random(seed);
  await using directory = temporaryDirectory({ inMemory: true });
  const create = (64 + random.below(6) * 64) * KiB;
  await using served = await serveCluster({
    servers: ids.map((id) => ({ id, device: { kind: 'file', path: directory.file(`${id}.img`), create } })),
  });
  await using cluster = await overNbd(served);
  const { verdict, workload } = await witnessRun({
    cluster,
    to: directory.file('image'),
    seed,
    strategy,
    closingCut,
    blockSizeBytes: 4 * KiB,
    writers: 8,
    beforeMs: 5 + random.below(20),
    afterMs: random.below(10),
    maxStallMs: 30_000,
    // Small devices are copied in a moment; at this rate it takes as long as with larger ones.
    ...(closingCut ? {} : { limitBytesPerSecond: 16 * MiB }),
  });
  expect(workload, `seed ${seed}`).toMatchObject({ failedWrites: 0, failedReads: 0, violations: 0 });
  for (const server of (await served.client.status()).servers)
    expect(server, `seed ${seed}`).toMatchObject({ inFlight: 0, parked: 0, barrierUp: false });
  for (const alone of verdict.devices.values())
    expect(alone.consistent, `seed ${seed}:\n${describeVerdict(alone)}`).toBe(true);
  if (closingCut)
    expect(verdict.group.consistent, `seed ${seed}:\n${describeVerdict(verdict.group)}`).toBe(true);
  return verdict.group.consistent;
}

nativeTest.each(['snapshot', 'hold', 'rolling'] as const)(
  'copies with %s are consistent while clients write past JavaScript',
  async (strategy) => {
    const seeds = new Random(testSeed());
    const snapshots = noteNativeSnapshots(core);
    for (let run = 0; run < runs; run++) await judgedRun(strategy, true, seeds.uint32());
    const passed = snapshots().reduce((sum, preImages) => sum + preImages.passed, 0);
    // Else it was JavaScript that preserved what they changed.
    if (strategy !== 'hold') expect(passed).toBeGreaterThan(runs);
  },
  runs * 10_000,
);

nativeTest(
  'rolling without its closing cut is caught',
  async () => {
    const seeds = new Random(testSeed());
    let caught = false;
    for (let run = 0; run < 30 && !caught; run++)
      caught = !(await judgedRun('rolling', false, seeds.uint32()));
    expect(caught).toBe(true);
  },
  300_000,
);
