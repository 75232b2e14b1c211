import { backup, type BackupOptions, type BackupResult } from '../backup/backup.js';
import { GenerationDevice } from '../backup/image/generation-device.js';
import { openImage } from '../backup/image/open.js';
import { realClock } from '../runtime/clock.js';
import type { Cluster } from '../servers/cluster.js';
import { SECTOR_BYTES } from '../runtime/sizes.js';
import type { Area } from './area.js';
import { HistoryFile } from './history-file.js';
import { History, type HistoryHeader } from './history.js';
import { judgeCopy, type CopyVerdict } from './judge.js';
import { freshRun } from './stamp.js';
import type { WorkloadStatistics } from './statistics.js';
import { watchCopy } from './watched-copy.js';

export interface WitnessRunOptions extends Omit<BackupOptions, 'servers' | 'to' | 'initialise'> {
  /** The servers to write to and to back up. */
  cluster: Cluster;
  /** Path of the backup image. */
  to: string;
  /** The parts of the devices that the clients write to; they are made zeros first. Default: every device, whole. */
  areas?: readonly Area[];
  /** Clients at work side by side. Default 8. */
  writers?: number;
  writesPerSecond?: number;
  /** Decides which writes the clients make. */
  seed: number;
  /** How long the clients write before the backup is requested, in ms. Default 100. */
  beforeMs?: number;
  /** How long they go on after it is complete, in ms. Default 50. */
  afterMs?: number;
  /** Write the history to this file too, as JSON Lines. */
  historyPath?: string;
}

export interface WitnessRunResult {
  backup: BackupResult;
  verdict: CopyVerdict;
  workload: WorkloadStatistics;
}

/**
 * Lets clients write chains of dependent writes across all devices, takes a backup in the middle of it, and judges the
 * generation in the image by what the clients saw.
 *
 * @throws CofferdamError what {@link backup} throws, and BAD_ARGUMENT for areas that do not fit their devices
 */
export async function witnessRun(options: WitnessRunOptions): Promise<WitnessRunResult> {
  const { cluster, seed, clock = realClock } = options;
  const header: HistoryHeader = { run: freshRun(), seed, areas: options.areas ?? wholeDevices(cluster) };
  using file = options.historyPath === undefined ? undefined : new HistoryFile(options.historyPath, header);
  const history = file?.history ?? new History(header);
  const { copy, result, workload } = await watchCopy(
    {
      history,
      devices: new Map(cluster.servers.map(({ id, client }) => [id, client])),
      clock,
      writers: options.writers,
      writesPerSecond: options.writesPerSecond,
      beforeMs: options.beforeMs ?? 100,
      afterMs: options.afterMs ?? 50,
      signal: options.signal,
    },
    (signal) => backup({ ...options, signal, servers: cluster.servers }),
  );
  return {
    backup: result,
    verdict: await judgeGeneration(history, copy, options.to, result.generation),
    workload,
  };
}

function wholeDevices(cluster: Cluster): Area[] {
  return cluster.servers.map(({ id, sizeBytes }) => ({
    id,
    areaOffsetBytes: 0,
    areaLengthBytes: Math.floor(sizeBytes / SECTOR_BYTES) * SECTOR_BYTES,
  }));
}

async function judgeGeneration(
  history: History,
  copy: number,
  path: string,
  generation: number,
): Promise<CopyVerdict> {
  await using image = await openImage(path, { write: false });
  const record = await image.record(generation);
  const devices = new Map(record.devices.map(({ id }) => [id, new GenerationDevice(image, record, id)]));
  return await judgeCopy(history, devices, history.windowOf(copy));
}
