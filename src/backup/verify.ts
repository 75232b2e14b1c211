import { setImmediate } from 'node:timers/promises';
import { isCofferdamError } from '../runtime/errors.js';
import { forEachParallel } from '../runtime/parallel.js';
import { mergeRanges, type BadRange } from './bad-range.js';
import { CancelWord, throwIfCancelled } from './cancellation.js';
import type { WalkStep } from './image/block-map.js';
import { headFaults } from './image/head.js';
import type { BackupImage } from './image/image.js';
import { byteRange } from './image/map-shape.js';
import { isDamage } from './image/reader.js';
import type { DeviceRecord, GenerationRecord } from './image/record.js';
import { checkLeaf, type LeafCheckContext } from './leaf-check.js';
import { BorrowedPool, type JobPool } from './pool.js';
import { Progress, type ProgressListener } from './progress.js';

export interface VerifyOptions {
  /** Which generations to check. Default `all`. */
  generation?: number | 'latest' | 'all';
  /** Threads that read and hash, to share with other calls. Default: one per processor for this call. */
  pool?: JobPool;
  /** Cancels: the promise rejects with CANCELLED. */
  signal?: AbortSignal | undefined;
  /** Called about ten times a second, and once at the end; a device of several generations counts as often. */
  onProgress?: ProgressListener | undefined;
}

export interface VerifyReport {
  /** Nothing at all was found to be wrong. */
  ok: boolean;
  /** What is wrong with superblocks, catalogs and records, for people. */
  problems: string[];
  /** The generations whose records can be read, in ascending order. */
  generations: VerifiedGeneration[];
}

export interface VerifiedGeneration {
  generation: number;
  devices: VerifiedDevice[];
}

export interface VerifiedDevice {
  id: string;
  sizeBytes: number;
  /** Bytes of the device that were found to be as they were copied, zeros among them. */
  goodBytes: number;
  /** The rest: in order, without overlap. */
  bad: BadRange[];
}

/**
 * Reads all that the generations can reach and checks it: superblocks, catalogs, records, every node of every block map,
 * every stored block. Damage is reported, not thrown; under a damaged node all of its part of the device counts as bad.
 *
 * Blocks that generations share are read once.
 *
 * @throws CofferdamError UNKNOWN_GENERATION, CANCELLED
 */
export async function verify(image: BackupImage, options: VerifyOptions = {}): Promise<VerifyReport> {
  const numbers = selectGenerations(image, options.generation ?? 'all');
  using cancel = new CancelWord(options.signal);
  using progress = new Progress(options.onProgress);
  await using threads = await BorrowedPool.of(options.pool);
  const { signal } = options;
  const run: VerifyRun = {
    image,
    pool: threads.pool,
    signal,
    cancel: cancel.word,
    progress,
    goodLeaves: new Set(),
  };
  const report: VerifyReport = {
    ok: true,
    problems: await headFaults(image.store, image.core),
    generations: [],
  };
  for (const number of numbers) {
    const record = await readRecord(image, number);
    if (typeof record === 'string') report.problems.push(record);
    else report.generations.push(await verifyGeneration(run, record));
  }
  const devices = report.generations.flatMap((generation) => generation.devices);
  report.ok = report.problems.length === 0 && devices.every((device) => device.bad.length === 0);
  return report;
}

interface VerifyRun {
  image: BackupImage;
  pool: JobPool;
  signal: AbortSignal | undefined;
  cancel: Int32Array;
  progress: Progress;
  /** Offsets of leaves all of whose blocks are right: generations share them, and there is one per 256 blocks. */
  goodLeaves: Set<number>;
}

function selectGenerations(image: BackupImage, wanted: number | 'latest' | 'all'): number[] {
  if (wanted === 'all') return image.generations.map((entry) => entry.generation);
  return [image.entry(wanted).generation];
}

/** The record, or what is wrong with it. */
async function readRecord(image: BackupImage, generation: number): Promise<GenerationRecord | string> {
  try {
    return await image.record(generation);
  } catch (error) {
    if (!isDamage(error)) throw error;
    return `generation ${generation} is lost: ${error.message}`;
  }
}

async function verifyGeneration(run: VerifyRun, record: GenerationRecord): Promise<VerifiedGeneration> {
  const devices: VerifiedDevice[] = [];
  for (const device of record.devices) {
    // A device of zeros needs no work that waits, and there may be very many: let others have a turn.
    await setImmediate();
    throwIfCancelled(run.signal);
    devices.push(await verifyDevice(run, record, device));
  }
  return { generation: record.generation, devices };
}

async function verifyDevice(
  run: VerifyRun,
  record: GenerationRecord,
  device: DeviceRecord,
): Promise<VerifiedDevice> {
  const { id } = device;
  const { image, pool, signal, cancel, progress, goodLeaves } = run;
  const map = image.blockMap(record, device);
  const { shape } = map;
  const counters = progress.counters(id, shape.sizeBytes);
  const context: LeafCheckContext = { image, pool, shape, target: undefined, counters, cancel };
  let bad: BadRange[] = [];

  const check = async (step: WalkStep): Promise<void> => {
    throwIfCancelled(signal);
    const range = byteRange(shape, step.firstBlock, step.blockCount);
    if (step.kind === 'leaf' && !goodLeaves.has(step.nodeOffset)) {
      const found = await checkLeaf(context, step.firstBlock, step.blocks);
      throwIfCancelled(signal);
      if (found.length === 0) goodLeaves.add(step.nodeOffset);
      bad.push(...found);
    } else {
      if (step.kind === 'damage') bad.push({ ...range, reason: step.error.message });
      Atomics.add(counters, 0, BigInt(range.lengthBytes));
    }
  };

  try {
    await forEachParallel(map.walk(), pool.workers + 1, check);
  } catch (error) {
    // A map that refers to a node twice has no place where the damage ends.
    if (!isCofferdamError(error, 'IMAGE_CORRUPT')) throw error;
    bad = [{ offsetBytes: 0, lengthBytes: shape.sizeBytes, reason: error.message }];
  }
  bad = mergeRanges(bad);
  const badBytes = bad.reduce((sum, range) => sum + range.lengthBytes, 0);
  return { id, sizeBytes: shape.sizeBytes, goodBytes: shape.sizeBytes - badBytes, bad };
}
