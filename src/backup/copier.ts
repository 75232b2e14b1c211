import { SharedBitmap } from '../core/bitmap.js';
import { forEachParallel } from '../runtime/parallel.js';
import type { CutSource, ServerControl } from '../servers/control.js';
import { CancelWord, throwIfCancelled } from './cancellation.js';
import type { CopyContext, DeviceCopy } from './copy-context.js';
import type { BlockMapWriter } from './image/block-map-writer.js';
import type { NodePointer } from './image/layout.js';
import { LEAF_BLOCKS } from './image/map-shape.js';
import { LeafCopy } from './leaf-copy.js';
import type { DeviceCopier } from './strategies.js';

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
  await forEachParallel(leavesToCopy(blockCount, source.selected), pool.workers + 1, async (leafIndex) => {
    throwIfCancelled(signal);
    const blocks = await new LeafCopy(device, leafIndex).copy();
    await map.put(leafIndex, blocks);
  });
  throwIfCancelled(signal);
  await source.assertIntact();
}

/** The leaves of the block map that have anything to copy. */
function* leavesToCopy(blockCount: number, selected: Int32Array | undefined): Generator<number> {
  const wordsPerLeaf = LEAF_BLOCKS / 32;
  for (let leaf = 0; leaf * LEAF_BLOCKS < blockCount; leaf++) {
    const words = selected?.subarray(leaf * wordsPerLeaf, (leaf + 1) * wordsPerLeaf);
    if (!words || words.some((word) => word !== 0)) yield leaf;
  }
}
