import { SharedBitmap } from '../core/bitmap.js';
import { forEachParallel } from '../runtime/parallel.js';
import { KiB } from '../runtime/sizes.js';
import type { CutSource, ServerControl } from '../servers/control.js';
import { CancelWord, throwIfCancelled } from './cancellation.js';
import type { CopyContext, DeviceCopy } from './copy-context.js';
import type { BlockMapWriter } from './image/block-map-writer.js';
import type { NodePointer } from './image/layout.js';
import { LEAF_BLOCKS } from './image/map-shape.js';
import { LeafCopy } from './leaf-copy.js';
import type { DeviceCopier } from './strategies.js';

/** What is looked at first to see whether a range is all hole. */
const FIRST_BYTES = 4 * KiB;

/** How many leaves are asked about at once within a hole. A file in small pieces has many extents to tell of. */
const MOST_HOLE_LEAVES = 16;

/** Copies devices into the generation that is being written. */
export class GenerationCopier implements DeviceCopier {
  readonly #context: CopyContext;

  constructor(context: CopyContext) {
    this.#context = context;
  }

  async copy(
    { id, sizeBytes }: ServerControl,
    source: CutSource,
    signal: AbortSignal,
    base?: NodePointer | null,
  ): Promise<NodePointer | null> {
    const { writer, algorithm, blockSizeBytes } = this.#context;
    const map = writer.blockMapWriter({ deviceId: id, sizeBytes, blockSizeBytes, algorithm }, base);
    await copyDevice(this.#context, id, source, map, signal);
    return await map.seal();
  }
}

/**
 * Copies one device's contents as of a cut into the generation that is being written.
 *
 * Blocks are dealt with leaf by leaf of the block map, some leaves at a time. When all is copied the source must vouch
 * that it was intact until then.
 *
 * @throws CofferdamError SOURCE_READ_FAILED, SOURCE_SHRUNK, SNAPSHOT_BROKEN, CUT_VOID, TARGET_FULL,
 * TARGET_WRITE_FAILED, CANCELLED or the signal's reason. No job of this copy is running any more then.
 */
async function copyDevice(
  context: CopyContext,
  id: string,
  source: CutSource,
  map: BlockMapWriter,
  signal: AbortSignal,
): Promise<void> {
  const { blockSizeBytes, pool, progress, pacer } = context;
  const { sizeBytes } = source.device;
  const blockCount = Math.ceil(sizeBytes / blockSizeBytes);
  const selected = source.selected && new SharedBitmap(blockCount, source.selected);
  const toCopyBytes = selected ? Math.min(selected.count() * blockSizeBytes, sizeBytes) : sizeBytes;
  const counters = progress.counters(id, toCopyBytes);
  let paidBytes = Number(Atomics.load(counters, 1));
  using cancel = new CancelWord(signal);
  const device: DeviceCopy = {
    context,
    id,
    source,
    cancel: cancel.word,
    counters,
    signal,
    async payForReads() {
      const readBytes = Number(Atomics.load(counters, 1));
      const dueBytes = readBytes - paidBytes;
      paidBytes = readBytes;
      await pacer.pay(dueBytes, signal);
    },
  };
  const leaves = source.selected ? selectedLeaves(blockCount, source.selected) : dataLeaves(device, map);
  await forEachParallel(leaves, pool.workers + 1, async (leafIndex) => {
    throwIfCancelled(signal);
    const blocks = await new LeafCopy(device, leafIndex).copy();
    await map.put(leafIndex, blocks);
  });
  throwIfCancelled(signal);
  await source.assertIntact();
}

/** The leaves of the block map that have anything selected. */
function* selectedLeaves(blockCount: number, selected: Int32Array): Generator<number> {
  const wordsPerLeaf = LEAF_BLOCKS / 32;
  for (let leaf = 0; leaf * LEAF_BLOCKS < blockCount; leaf++) {
    const words = selected.subarray(leaf * wordsPerLeaf, (leaf + 1) * wordsPerLeaf);
    if (words.some((word) => word !== 0)) yield leaf;
  }
}

/**
 * The leaves that are not all hole. Those that are are put on the way, as no thread has anything to do there: a sparse
 * device of many TiB takes no more time or memory than its data.
 */
async function* dataLeaves(device: DeviceCopy, map: BlockMapWriter): AsyncGenerator<number> {
  const { source, context, counters, signal } = device;
  const leafBytes = LEAF_BLOCKS * context.blockSizeBytes;
  const { sizeBytes } = source.device;
  const leafCount = Math.ceil(sizeBytes / leafBytes);
  let atOnce = 1;
  for (let leaf = 0; leaf < leafCount;) {
    throwIfCancelled(signal);
    const end = Math.min(leaf + atOnce, leafCount);
    const lengthBytes = Math.min(end * leafBytes, sizeBytes) - leaf * leafBytes;
    if (await isHole(source, leaf * leafBytes, lengthBytes)) {
      source.markCopied(leaf * LEAF_BLOCKS, Math.ceil(lengthBytes / context.blockSizeBytes));
      while (leaf < end) await map.putZeros(leaf++);
      context.statistics.zeroBytes += lengthBytes;
      Atomics.add(counters, 0, BigInt(lengthBytes));
      atOnce = Math.min(2 * atOnce, MOST_HOLE_LEAVES);
    } else if (atOnce > 1) {
      atOnce = 1;
    } else {
      yield leaf++;
    }
  }
}

/** Whether the contents as of the cut are known to be zeros without reading them. */
async function isHole(source: CutSource, offsetBytes: number, lengthBytes: number): Promise<boolean> {
  try {
    // Some file systems take long to find where data ends, so first whether it begins at once.
    for (const part of [Math.min(lengthBytes, FIRST_BYTES), lengthBytes]) {
      const extents = await source.device.allocation(offsetBytes, part);
      if (extents.some(({ kind }) => kind === 'data')) return false;
    }
    return true;
  } catch {
    // Whoever reads there finds out what is wrong, and where.
    return false;
  }
}
