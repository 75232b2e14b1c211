import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test as base, type TestAPI } from 'vitest';
import { openCluster, type Cluster } from '../servers/cluster.js';
import type { ClusterInput } from '../servers/cluster-config.js';

/** What a test gets from {@link clusterTest}. */
export interface ClusterFixtures {
  /** A cluster of its own, started before the test and closed after it. */
  cluster: Cluster;
  /** A folder of its own, for images and other files; removed after the test. */
  directory: string;
}

/**
 * A `test` function whose tests each get a cluster and a folder of their own:
 *
 *     const test = clusterTest({ servers: [{ id: 'a', device: { kind: 'memory', size: '16MiB' } }] });
 *     test('writes are read back', async ({ cluster }) => { ... });
 *
 * @param config the cluster: an object, the path of a YAML file, or a function of the test's folder that returns an
 * object, for servers on files in it.
 */
export function clusterTest(
  config: ClusterInput | string | ((directory: string) => ClusterInput),
): TestAPI<ClusterFixtures> {
  return base.extend<ClusterFixtures>({
    // Vitest reads the names of the fixtures that a fixture needs off its first parameter.
    // eslint-disable-next-line no-empty-pattern
    directory: async ({}, use) => {
      const directory = await mkdtemp(join(tmpdir(), 'cofferdam-test-'));
      await use(directory);
      await rm(directory, { recursive: true, force: true });
    },
    cluster: async ({ directory }, use) => {
      await using cluster = await openCluster(typeof config === 'function' ? config(directory) : config);
      await use(cluster);
    },
  });
}
