import type { HashAlgorithm } from '../core/core.js';
import { checkDeviceId } from '../devices/device-id.js';
import { identityOf } from '../devices/open.js';
import { realClock, type Clock } from '../runtime/clock.js';
import { CofferdamError } from '../runtime/errors.js';
import { KiB } from '../runtime/sizes.js';
import type { ServerControl } from '../servers/control.js';
import { cancellation, throwIfCancelled } from './cancellation.js';
import { GenerationCopier } from './copier.js';
import type { CopyContext } from './copy-context.js';
import { BackupImage } from './image/image.js';
import { openImage } from './image/open.js';
import {
  checkBlockSize,
  type Consistency,
  type CopyStatistics,
  type CutCertificate,
  type Strategy,
} from './image/record.js';
import { Pacer } from './pacer.js';
import { BorrowedPool, MOST_WORKERS, type JobPool } from './pool.js';
import { Progress, type ProgressListener } from './progress.js';
import {
  holdStrategy,
  rollingStrategy,
  rollingStrategyWithoutClosingCut,
  snapshotStrategy,
  type StrategyResult,
  type StrategyRun,
} from './strategies.js';
import { TimelineRecorder, type BackupTimeline } from './timeline.js';

export interface BackupOptions {
  /** The servers whose devices are copied, as of one cut. Their IDs name the devices in the image. */
  servers: readonly ServerControl[];
  /** Path of the backup image, which is made if it does not exist, or an image that is open for writing. */
  to: string | BackupImage;
  /** Make an image on a block device that holds nothing yet. Default false. */
  initialise?: boolean;
  /** Default `snapshot`. */
  strategy?: Strategy;
  /** With `rolling`: whether the pass over single devices is made consistent by a cut over all. Default true. */
  closingCut?: boolean;
  /** Unit of copying, hashing and copy-before-write, in bytes: a power of two from 4 KiB to 4 MiB. Default 64 KiB. */
  blockSizeBytes?: number;
  /** Default `xxh64`, which guards against accidents; `blake3` guards against forgery. */
  hash?: HashAlgorithm;
  /**
   * Bound in ms on the time from the first barrier going up to the last coming down, for the cut of `snapshot` and the
   * closing cut of `rolling` (default 1000) and, only where given, for `hold`. Past it the backup fails.
   */
  maxStallMs?: number;
  /** Bound on reading from the sources, in bytes per second. Default none. */
  limitBytesPerSecond?: number;
  /** Threads that copy, up to 64. Default: one per processor. */
  workers?: number;
  /**
   * Linux: the threads that copy let others go first that want the same processor, so that clients hardly notice.
   * Default: with `snapshot`, not with the other strategies, where clients wait for the copy.
   */
  givesWay?: boolean;
  /** Threads to share with other calls, instead of starting `workers` for this one. */
  pool?: JobPool;
  /** Cancels the backup: barriers come down, nothing is committed, the promise rejects with CANCELLED. */
  signal?: AbortSignal;
  /** Called about ten times a second, and once at the end. */
  onProgress?: ProgressListener;
  /** Note what happens when, for {@link BackupResult.timeline}. Default false. */
  timeline?: boolean;
  clock?: Clock;
}

export interface BackupResult {
  /** Number of the new generation in its image. */
  generation: number;
  strategy: Strategy;
  /** `group`: all devices are as of one instant. `device`: each device alone is crash-consistent, the group is not. */
  consistency: Consistency;
  devices: { id: string; sizeBytes: number }[];
  statistics: CopyStatistics;
  /** What the servers vouch for: the evidence of `consistency`. */
  cut: CutCertificate;
  /** BLAKE3 of the generation's record, in hexadecimal; it authenticates all that the generation holds. */
  fingerprint: string;
  elapsedMs: number;
  /** What happened when, if that was asked for. */
  timeline?: BackupTimeline;
  /** What was noticed about the image on the way, for people. */
  warnings: string[];
}

/**
 * Copies the devices of all servers as of one instant into a new generation of a backup image. Clients are not asked and
 * do not notice, but for the time their writes are parked. The backup either commits whole or leaves the image as it was.
 *
 * @throws CofferdamError BAD_ARGUMENT, DUPLICATE_DEVICE, SOURCE_IS_TARGET; what opening an image throws; what a cut throws
 * (EPOCH_STALE, CUT_ABORTED, CUT_VOID, STALL_BUDGET_EXCEEDED); what copying throws (SOURCE_READ_FAILED, SOURCE_SHRUNK,
 * SNAPSHOT_BROKEN, TARGET_FULL, TARGET_WRITE_FAILED); CANCELLED.
 */
export async function backup(options: BackupOptions): Promise<BackupResult> {
  const plan = checkOptions(options);
  throwIfCancelled(options.signal);
  if (options.to instanceof BackupImage) return backupInto(options.to, options, plan);
  await assertTargetIsNoSource(options.to, options.servers);
  await using image = await openImage(options.to, {
    write: true,
    create: true,
    initialise: options.initialise ?? false,
  });
  return await backupInto(image, options, plan);
}

interface Plan {
  strategy: Strategy;
  run: (run: StrategyRun) => Promise<StrategyResult>;
  blockSizeBytes: number;
  algorithm: HashAlgorithm;
}

function checkOptions(options: BackupOptions): Plan {
  const { servers, maxStallMs, limitBytesPerSecond, workers } = options;
  if (servers.length === 0) throw new CofferdamError('BAD_ARGUMENT', 'a backup needs at least one device');
  const seen = new Set<string>();
  for (const { id } of servers) {
    checkDeviceId(id);
    if (seen.has(id)) {
      throw new CofferdamError(
        'DUPLICATE_DEVICE',
        `two devices have the ID ${id}; name them apart, as ID=PATH`,
        { device: id },
      );
    }
    seen.add(id);
  }
  for (const [what, value] of Object.entries({ maxStallMs, limitBytesPerSecond, workers })) {
    if (value !== undefined && !(value > 0 && value < Infinity))
      throw new CofferdamError('BAD_ARGUMENT', `${what} must be a number above 0, not ${value}`);
  }
  if (workers !== undefined && !(Number.isInteger(workers) && workers <= MOST_WORKERS)) {
    throw new CofferdamError(
      'BAD_ARGUMENT',
      `workers must be a whole number up to ${MOST_WORKERS}, not ${workers}`,
    );
  }
  const strategy = options.strategy ?? 'snapshot';
  if (options.closingCut === false && strategy !== 'rolling') {
    throw new CofferdamError('BAD_ARGUMENT', 'only the rolling strategy can do without its closing cut');
  }
  const rolling = options.closingCut === false ? rollingStrategyWithoutClosingCut : rollingStrategy;
  return {
    strategy,
    run: { snapshot: snapshotStrategy, hold: holdStrategy, rolling }[strategy],
    blockSizeBytes: checkBlockSize(options.blockSizeBytes ?? 64 * KiB),
    algorithm: options.hash ?? 'xxh64',
  };
}

/** Copying an image into itself would never end well; a lock would refuse it, but not say why. */
async function assertTargetIsNoSource(path: string, servers: readonly ServerControl[]): Promise<void> {
  const target = new Set(await identityOf(path));
  for (const server of servers) {
    if (!server.identities.some((identity) => target.has(identity))) continue;
    throw new CofferdamError(
      'SOURCE_IS_TARGET',
      `${path} is device ${server.id} itself; give a backup image that is not one of the sources`,
      { device: server.id },
    );
  }
}

async function backupInto(image: BackupImage, options: BackupOptions, plan: Plan): Promise<BackupResult> {
  const clock = options.clock ?? realClock;
  const startedMs = clock.nowMs();
  const startedAt = new Date().toISOString();
  const { servers, maxStallMs, signal = new AbortController().signal } = options;
  const { blockSizeBytes } = plan;
  const { givesWay = plan.strategy === 'snapshot' } = options;
  await using threads = await BorrowedPool.of(options.pool, options.workers, { givesWay });
  using progress = new Progress(options.onProgress);
  const recorder = options.timeline ? new TimelineRecorder(clock, progress, startedMs) : undefined;
  const writer = image.beginGeneration();
  try {
    const copy: CopyContext = {
      pool: threads.pool,
      writer,
      algorithm: plan.algorithm,
      blockSizeBytes,
      clock,
      pacer: new Pacer(clock, options.limitBytesPerSecond),
      progress,
      statistics: { storedBytes: 0, zeroBytes: 0, readBytes: 0 },
    };
    const copier = new GenerationCopier(copy);
    const run: StrategyRun = { servers, copier, clock, blockSizeBytes, maxStallMs, signal };
    const result = await plan.run(recorder?.watch(run) ?? run);
    copy.statistics.readBytes = progress.devices().reduce((sum, device) => sum + device.readBytes, 0);
    throwIfCancelled(signal);
    const generation = await writer.commit({
      parent: null,
      hashAlgorithm: plan.algorithm,
      strategy: plan.strategy,
      consistency: result.consistency,
      startedAt,
      finishedAt: new Date().toISOString(),
      devices: servers.map(({ id, sizeBytes }) => ({
        id,
        sizeBytes,
        blockSizeBytes,
        root: result.roots.get(id) ?? null,
      })),
      statistics: copy.statistics,
      cut: result.cut,
    });
    return {
      generation,
      strategy: plan.strategy,
      consistency: result.consistency,
      devices: servers.map(({ id, sizeBytes }) => ({ id, sizeBytes })),
      statistics: copy.statistics,
      cut: result.cut,
      fingerprint: image.generations.at(-1)?.fingerprint ?? '',
      elapsedMs: clock.nowMs() - startedMs,
      ...(recorder ? { timeline: recorder.timeline } : {}),
      warnings: [...image.warnings],
    };
  } catch (error) {
    await writer.abandon();
    // Whatever an abort interrupted, the reason is the abort.
    throw signal.aborted ? cancellation(signal) : error;
  }
}
