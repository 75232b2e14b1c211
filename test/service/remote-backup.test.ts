import { describe, expect, test } from 'vitest';
import { NbdDevice, RemoteServer, witnessRun, type Cluster } from 'cofferdam';
import type { Strategy } from '#src/backup/image/record';
import { Random } from '#src/runtime/random';
import { temporaryDirectory } from '../support/directory.js';
import { testSeed } from '../support/seed.js';
import { memory, serveCluster, type ServedCluster } from './cluster.js';

const runs = Number(process.env['RUNS'] ?? 4);
const ids = ['a', 'b', 'c', 'd'];

/** Servers of several services, as a coordinator elsewhere has them, and their devices as clients elsewhere do. */
async function remoteCluster(services: readonly ServedCluster[]): Promise<Cluster & AsyncDisposable> {
  const servers: (RemoteServer & { client: NbdDevice })[] = [];
  for (const { client } of services) {
    for (const status of (await client.status()).servers) {
      servers.push(
        Object.assign(new RemoteServer(client, status), { client: await NbdDevice.open(status.uri) }),
      );
    }
  }
  const cluster = {
    servers,
    async [Symbol.asyncDispose]() {
      await Promise.all(servers.map((server) => server.client.close()));
    },
  };
  // The witness asks a cluster for its servers, and those for their IDs, sizes and clients, and no more.
  return cluster as unknown as Cluster & AsyncDisposable;
}

async function verdictOf(strategy: Strategy, closingCut: boolean, seed: number): Promise<boolean> {
  await using directory = temporaryDirectory();
  const services = await Promise.all(
    [ids.slice(0, 2), ids.slice(2)].map((some) =>
      serveCluster({ servers: some.map((id) => memory(id, '512KiB')) }),
    ),
  );
  try {
    await using cluster = await remoteCluster(services);
    const { verdict, workload } = await witnessRun({
      cluster,
      to: directory.file('image'),
      seed,
      strategy,
      closingCut,
      blockSizeBytes: 4096,
      maxStallMs: 30_000,
    });
    expect(workload.writes).toBeGreaterThan(100);
    expect(workload.failedWrites).toBe(0);
    for (const { client } of services) {
      // Nothing is left behind.
      for (const server of (await client.status()).servers)
        expect(server).toMatchObject({ snapshots: 0, barrierUp: false });
    }
    return verdict.group.consistent;
  } finally {
    for (const service of services) await service[Symbol.asyncDispose]();
  }
}

describe('a coordinator that has its servers in two other processes', () => {
  const seeds = new Random(testSeed());

  test.each(['snapshot', 'hold', 'rolling'] as const)('takes consistent copies with %s', async (strategy) => {
    for (let run = 0; run < runs; run++) {
      const seed = seeds.uint32();
      expect(await verdictOf(strategy, true, seed), `seed ${seed}`).toBe(true);
    }
  });

  test('is caught when it leaves out the closing cut', async () => {
    let caught = 0;
    for (let run = 0; run < 20 && caught === 0; run++) {
      if (!(await verdictOf('rolling', false, seeds.uint32()))) caught++;
    }
    expect(caught).toBe(1);
  });
});
