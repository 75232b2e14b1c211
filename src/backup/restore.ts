import { fstat } from 'node:fs';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { BlockState } from '../core/core.js';
import { endOf, type ByteRange } from '../devices/byte-range.js';
import { folderFault, makeFolder } from '../devices/folder.js';
import { identityOf } from '../devices/open.js';
import { identityOfStats } from '../devices/openers.js';
import { CofferdamError, messageOf } from '../runtime/errors.js';
import { forEachParallel } from '../runtime/parallel.js';
import { GiB } from '../runtime/sizes.js';
import { mergeRanges, type BadRange } from './bad-range.js';
import { CancelWord, throwIfCancelled } from './cancellation.js';
import type { LeafBlocks, WalkStep } from './image/block-map.js';
import { findDevice, type BackupImage } from './image/image.js';
import { byteRange } from './image/map-shape.js';
import type { GenerationRecord } from './image/record.js';
import { checkLeaf, type LeafCheckContext } from './leaf-check.js';
import { BorrowedPool, type JobPool } from './pool.js';
import { Progress, type ProgressListener } from './progress.js';
import { RestoreTarget } from './restore-target.js';

/**
 * The states of the blocks that each pass over the block map deals with. A target in place is made zero first, so that it
 * never needs more room than what it held, or what it will hold. To write over what is left costs less than to free all
 * of it and take new room.
 */
const PARTS_IN_PLACE: readonly (readonly number[])[] = [[BlockState.Zero], [BlockState.Stored]];
const PARTS_OF_BLANK: readonly (readonly number[])[] = [[BlockState.Zero, BlockState.Stored]];

/** The most that is made zero on a target between two looks at the signal. */
const ZERO_STEP_BYTES = GiB;

export interface RestoreOptions {
  /** Default `latest`. */
  generation?: number | 'latest';
  /** Paths by device ID, of files or block devices; or a directory that gets a sparse file `ID.img` for each device. */
  targets: ReadonlyMap<string, string> | { directory: string };
  /** Overwrite files and block devices that exist; a file gets the device's size. Default false. */
  force?: boolean;
  /** Go on past blocks that are damaged; they are left zero on the target, and reported. Default false. */
  skipBad?: boolean;
  /** Threads that read, hash and write, to share with other calls. Default: one per processor for this call. */
  pool?: JobPool;
  /** Cancels: the promise rejects with CANCELLED. */
  signal?: AbortSignal | undefined;
  /** Called about ten times a second, and once at the end. */
  onProgress?: ProgressListener | undefined;
}

export interface RestoreResult {
  generation: number;
  devices: RestoredDevice[];
}

export interface RestoredDevice {
  id: string;
  path: string;
  sizeBytes: number;
  /** What could not be restored and is zero on the target: in order, without overlap; empty unless `skipBad`. */
  bad: BadRange[];
}

/**
 * Restores devices of a generation. Every block is checked against its hash before it is written. New files appear under
 * their names only when all devices are restored and durable; a restore that fails or is cancelled leaves none.
 *
 * @throws CofferdamError UNKNOWN_GENERATION, UNKNOWN_DEVICE, BAD_ARGUMENT, SOURCE_IS_TARGET; TARGET_EXISTS,
 * TARGET_TOO_SMALL, DEVICE_BUSY and others of opening a target; BLOCK_CORRUPT; IMAGE_CORRUPT, IMAGE_TRUNCATED,
 * IMAGE_VERSION of the record; TARGET_FULL, TARGET_WRITE_FAILED; CANCELLED
 */
export async function restore(image: BackupImage, options: RestoreOptions): Promise<RestoreResult> {
  const record = await image.record(options.generation ?? 'latest');
  const paths = await targetPaths(record, options.targets);
  await checkTargets(image, paths);

  const targets = new Map<string, RestoreTarget>();
  try {
    for (const [id, path] of paths) {
      const { sizeBytes } = findDevice(record, id);
      targets.set(id, await RestoreTarget.open(path, sizeBytes, options.force ?? false, image.core));
    }
    throwIfCancelled(options.signal);
    const devices = await restoreAll(image, record, targets, options);
    for (const target of targets.values()) await target.finish();
    return { generation: record.generation, devices };
  } catch (error) {
    throw ofTarget(error, [...targets.values()]);
  } finally {
    for (const target of targets.values()) await target.discard();
  }
}

/** Where each device goes, by ID, in the order of the record or of the caller. */
async function targetPaths(
  record: GenerationRecord,
  targets: RestoreOptions['targets'],
): Promise<ReadonlyMap<string, string>> {
  if ('directory' in targets) {
    const { directory } = targets;
    await makeFolder(directory);
    return new Map(record.devices.map(({ id }) => [id, join(directory, `${id}.img`)]));
  }
  if (targets.size === 0) throw new CofferdamError('BAD_ARGUMENT', 'a restore needs at least one device');
  for (const id of targets.keys()) findDevice(record, id);
  return targets;
}

/** A target must be neither the image nor a second name of another target. */
async function checkTargets(image: BackupImage, paths: ReadonlyMap<string, string>): Promise<void> {
  const { fd, name } = image.store;
  const ofImage =
    fd === undefined ? undefined : identityOfStats(await promisify(fstat)(fd, { bigint: true }));
  const owners = new Map<string, string>();
  for (const [id, path] of paths) {
    const identities = await identityOf(path);
    const fault = identities.length === 0 ? folderFault(path) : undefined;
    if (fault) throw fault;
    if (ofImage !== undefined && identities.includes(ofImage)) {
      throw new CofferdamError(
        'SOURCE_IS_TARGET',
        `${path} is the backup image ${name} itself; give device ${id} another target`,
        { device: id },
      );
    }
    for (const identity of identities.length > 0 ? identities : [resolve(path)]) {
      const other = owners.get(identity);
      if (other !== undefined) {
        throw new CofferdamError('BAD_ARGUMENT', `devices ${other} and ${id} have the same target ${path}`, {
          device: id,
        });
      }
      owners.set(identity, id);
    }
  }
}

async function restoreAll(
  image: BackupImage,
  record: GenerationRecord,
  targets: ReadonlyMap<string, RestoreTarget>,
  options: RestoreOptions,
): Promise<RestoredDevice[]> {
  await using threads = await BorrowedPool.of(options.pool);
  const { pool } = threads;
  using cancel = new CancelWord(options.signal);
  using progress = new Progress(options.onProgress);
  for (const [id, { sizeBytes }] of targets) progress.counters(id, sizeBytes);
  const devices: RestoredDevice[] = [];
  for (const [id, target] of targets) {
    await target.prepare();
    const map = image.blockMap(record, id);
    const counters = progress.counters(id, 0);
    const context = { image, pool, shape: map.shape, target, counters, cancel: cancel.word };
    const run = new DeviceRestore(context, target, options);
    for (const part of target.isBlank ? PARTS_OF_BLANK : PARTS_IN_PLACE) {
      await forEachParallel(map.walk(), pool.workers + 1, (step) => run.take(step, part));
    }
    // What could be read in one pass only was counted in part, or twice.
    Atomics.store(counters, 0, BigInt(target.sizeBytes));
    await target.device.flush();
    devices.push({ id, path: target.path, sizeBytes: target.sizeBytes, bad: mergeRanges(run.bad) });
  }
  return devices;
}

/** The restore of one device, step by step of its block map, several steps at a time. */
class DeviceRestore {
  readonly bad: BadRange[] = [];
  readonly #context: LeafCheckContext;
  readonly #target: RestoreTarget;
  readonly #options: RestoreOptions;

  constructor(context: LeafCheckContext, target: RestoreTarget, options: RestoreOptions) {
    this.#context = context;
    this.#target = target;
    this.#options = options;
  }

  async take(step: WalkStep, part: readonly number[]): Promise<void> {
    throwIfCancelled(this.#options.signal);
    const { shape, counters } = this.#context;
    const range = byteRange(shape, step.firstBlock, step.blockCount);
    switch (step.kind) {
      case 'leaf':
        return await this.#takeLeaf(step.firstBlock, onlyIn(part, step.blocks));
      case 'zero':
        if (!part.includes(BlockState.Zero)) return;
        await this.#makeZero(range);
        break;
      case 'damage':
        // If it can be read in the next pass, what is zero there has to be so by then.
        if (this.#options.skipBad && !part.includes(BlockState.Stored)) return await this.#makeZero(range);
        await this.#skip({ ...range, reason: step.error.message });
    }
    Atomics.add(counters, 0, BigInt(range.lengthBytes));
  }

  async #takeLeaf(firstBlock: number, blocks: LeafBlocks): Promise<void> {
    if (blocks.states.every((state) => state === BlockState.Skipped)) return;
    const found = await checkLeaf(this.#context, firstBlock, blocks);
    throwIfCancelled(this.#options.signal);
    for (const bad of mergeRanges(found)) await this.#skip(bad);
  }

  /** Goes on past a range that cannot be restored, if that was asked for. */
  async #skip(bad: BadRange): Promise<void> {
    if (this.#options.skipBad) {
      this.bad.push(bad);
      return await this.#makeZero(bad);
    }
    const { deviceId } = this.#context.shape;
    const { offsetBytes, lengthBytes, reason } = bad;
    throw new CofferdamError(
      'BLOCK_CORRUPT',
      `device ${deviceId}: ${lengthBytes} bytes at ${offsetBytes} cannot be restored: ${reason}; ` +
        'verify lists all such ranges, --skip-bad restores the rest',
      { device: deviceId, offsetBytes, lengthBytes },
    );
  }

  async #makeZero(range: ByteRange): Promise<void> {
    if (this.#target.isBlank) return;
    const end = endOf(range);
    for (let at = range.offsetBytes; at < end; at += ZERO_STEP_BYTES) {
      throwIfCancelled(this.#options.signal);
      await this.#target.device.writeZeroes(at, Math.min(ZERO_STEP_BYTES, end - at));
    }
  }
}

/** Leaves out blocks of other states than these. */
function onlyIn(part: readonly number[], blocks: LeafBlocks): LeafBlocks {
  const states = new Uint8Array(new SharedArrayBuffer(blocks.states.length));
  blocks.states.forEach((state, i) => {
    states[i] = part.includes(state) ? state : BlockState.Skipped;
  });
  return { ...blocks, states };
}

/** The same error as the caller of a restore sees it; it also says what it did to targets that were there before. */
function ofTarget(error: unknown, targets: readonly RestoreTarget[]): unknown {
  const overwritten = targets.filter((target) => target.isOverwritten).map((target) => target.path);
  const known = error instanceof CofferdamError ? error : undefined;
  if (overwritten.length === 0 && known?.code !== 'DEVICE_FULL') return error;
  const { code = 'DEVICE_IO', device, offsetBytes, lengthBytes } = known ?? {};
  const harm = overwritten.length > 0 ? `; what ${overwritten.join(', ')} held is overwritten in part` : '';
  return new CofferdamError(code === 'DEVICE_FULL' ? 'TARGET_FULL' : code, `${messageOf(error)}${harm}`, {
    ...(device === undefined ? {} : { device }),
    ...(offsetBytes === undefined ? {} : { offsetBytes }),
    ...(lengthBytes === undefined ? {} : { lengthBytes }),
    cause: error,
  });
}
