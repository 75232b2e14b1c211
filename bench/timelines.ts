import { rm } from 'node:fs/promises';
import { backup, CopyPool, openCluster, type BlockDevice, type Strategy } from 'cofferdam';
import { loadCore } from '#src/core/load';
import type { TimedResult } from '#src/plot/backup-page';
import { KiB, MiB } from '#src/runtime/sizes';
import { makeImage } from './inputs.js';
import { memoryDirectory } from './scratch.js';

const SERVERS = ['a', 'b', 'c', 'd'];
const STRATEGIES: readonly Strategy[] = ['snapshot', 'hold', 'rolling'];

/** One backup by each strategy, for a picture of it, while a client of each server writes 4 KiB every millisecond. */
export async function backupsToDraw(smoke: boolean): Promise<TimedResult[]> {
  const sizeBytes = smoke ? 4 * MiB : 128 * MiB;
  await using directory = await memoryDirectory(2.5 * SERVERS.length * sizeBytes);
  for (const id of SERVERS) await makeImage(directory.file(`${id}.img`), sizeBytes, 'random');
  await using cluster = await openCluster({
    servers: SERVERS.map((id) => {
      return { id, device: directory.file(`${id}.img`), preImages: { directory: directory.path } };
    }),
  });
  // Threads that are there already, so that the picture is of the backups.
  await using pool = await CopyPool.start(await loadCore());
  const results: TimedResult[] = [];
  for (const strategy of STRATEGIES) {
    const to = directory.file('image');
    const clients = cluster.servers.map(({ client }) => new SteadyClient(client));
    const { timeline, ...result } = await backup({
      servers: cluster.servers,
      to,
      strategy,
      pool,
      timeline: true,
    });
    for (const client of clients) await client.stop();
    if (!timeline) throw new Error('a backup that was asked for its timeline has one');
    results.push({ ...result, timeline });
    await rm(to);
  }
  return results;
}

/** Sends a write of 4 KiB every millisecond, answered or not, so that the longer a barrier is up the more writes it parks. */
class SteadyClient {
  readonly #writes: Promise<void>[] = [];
  readonly #timer: NodeJS.Timeout;

  constructor(device: BlockDevice) {
    const bytes = new Uint8Array(4 * KiB).fill(0xc1);
    let at = 0;
    this.#timer = setInterval(() => {
      this.#writes.push(device.write(at, bytes));
      at = (at + 37 * bytes.length) % device.sizeBytes;
    }, 1);
  }

  /** Resolves when all is answered. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all(this.#writes);
  }
}
