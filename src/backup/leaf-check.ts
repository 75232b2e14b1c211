import { setImmediate } from 'node:timers/promises';
import { BlockFault, BlockState } from '../core/core.js';
import type { BadRange } from './bad-range.js';
import type { LeafBlocks } from './image/block-map.js';
import type { BackupImage } from './image/image.js';
import { byteRange, type MapShape } from './image/map-shape.js';
import { faultReason, readStoredBlock } from './image/stored-block.js';
import type { JobPool } from './pool.js';
import type { RestoreTarget } from './restore-target.js';

/** What the checks of one device's leaves share. */
export interface LeafCheckContext {
  image: BackupImage;
  pool: JobPool;
  shape: MapShape;
  /** Where to write the blocks that are right; absent: only check them. */
  target: Pick<RestoreTarget, 'path' | 'device' | 'isBlank'> | undefined;
  /** Two words, as {@link RestoreJob.progress} wants them. */
  counters: BigInt64Array;
  /** One word; not zero means stop. */
  cancel: Int32Array;
}

/**
 * Checks the stored blocks of one leaf against their hashes and, with a target, writes out those that are right; those
 * that are zeros are made so on a target that is not blank. When cancelled it ends early, and its answer means nothing.
 *
 * @returns the ranges of the device that cannot be had; the target was not written there.
 * @throws CofferdamError TARGET_FULL, TARGET_WRITE_FAILED and others that a device throws
 */
export async function checkLeaf(
  context: LeafCheckContext,
  firstBlock: number,
  blocks: LeafBlocks,
): Promise<BadRange[]> {
  const { image, target, shape } = context;
  const isNative = image.store.fd !== undefined && (!target || target.device.nativeSource !== undefined);
  const faults = isNative
    ? await checkOnPool(context, image.store.fd, firstBlock, blocks)
    : await checkHere(context, firstBlock, blocks);
  const bad: BadRange[] = [];
  faults.forEach((fault, i) => {
    if (fault !== BlockFault.None)
      bad.push({ ...byteRange(shape, firstBlock + i, 1), reason: faultReason(fault) });
  });
  return bad;
}

async function checkOnPool(
  context: LeafCheckContext,
  imageFd: number,
  firstBlock: number,
  blocks: LeafBlocks,
): Promise<Uint8Array> {
  const { pool, shape, target, cancel, counters } = context;
  const faults = new Uint8Array(new SharedArrayBuffer(blocks.states.length));
  await pool.restore(
    { device: shape.deviceId, target: target?.path },
    {
      imageFd,
      targetFd: target?.device.nativeSource?.fd,
      zeroTarget: target !== undefined && !target.isBlank,
      deviceSizeBytes: shape.sizeBytes,
      blockSizeBytes: shape.blockSizeBytes,
      firstBlock,
      blockCount: blocks.states.length,
      algorithm: shape.algorithm,
      ...blocks,
      cancel,
      progress: counters,
      faults,
    },
  );
  return faults;
}

/** For images and targets without a descriptor that worker threads could use. */
async function checkHere(
  context: LeafCheckContext,
  firstBlock: number,
  blocks: LeafBlocks,
): Promise<Uint8Array> {
  const { image, shape, target, cancel, counters } = context;
  // An image in memory never waits for anything; without a turn of the event loop nobody could cancel.
  await setImmediate();
  const faults = new Uint8Array(blocks.states.length);
  for (const [i, state] of blocks.states.entries()) {
    if (Atomics.load(cancel, 0) !== 0) break;
    if (state === BlockState.Skipped) continue;
    const { offsetBytes, lengthBytes } = byteRange(shape, firstBlock + i, 1);
    if (state === BlockState.Stored) {
      const bytes = new Uint8Array(lengthBytes);
      faults[i] = await readStoredBlock(image, shape.algorithm, blocks, i, bytes);
      if (faults[i] === BlockFault.None) await target?.device.write(offsetBytes, bytes);
      Atomics.add(counters, 1, BigInt(lengthBytes));
    } else if (target && !target.isBlank) {
      await target.device.writeZeroes(offsetBytes, lengthBytes);
    }
    Atomics.add(counters, 0, BigInt(lengthBytes));
  }
  return faults;
}
