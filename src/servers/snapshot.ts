import { SharedBitmap } from '../core/bitmap.js';
import { appendExtent, type BlockDevice, type Extent } from '../devices/block-device.js';
import { ReadOnlyDevice } from '../devices/read-only.js';
import { CofferdamError, messageOf } from '../runtime/errors.js';
import { MiB } from '../runtime/sizes.js';
import type { CutSource, NativeCutSource } from './control.js';
import { PreImageStore, type PreImageLimits } from './pre-images.js';

/**
 * The contents of a device as of a cut, kept by copy-before-write while clients go on writing.
 *
 * Invariants, for every block b while the snapshot is intact:
 * 1. Before a client's write to b reaches the device, b is copied or preserved.
 * 2. `preserved[b]` is set only after the pre-image is in the store, and never cleared.
 * 3. `copied[b]` is set only after the content as of the cut is in the copier's hands, and never cleared.
 * 4. So whoever reads b from the device and *then* finds `preserved[b]` clear has read the content as of the cut; and
 *    whoever finds it set finds the pre-image in the store until b is copied.
 * 5. A snapshot that cannot keep a pre-image breaks before the write that needed it goes on. It never comes back.
 */
export class Snapshot implements CutSource {
  readonly device: BlockDevice;
  readonly native: NativeCutSource | undefined;
  readonly selected: Int32Array<SharedArrayBuffer> | undefined;
  readonly preserved: SharedBitmap;
  readonly copied: SharedBitmap;
  readonly #live: BlockDevice;
  readonly #preImages: PreImageStore;
  readonly #saving = new Map<number, Promise<void>>();
  readonly #onClose: () => void;
  #broken: CofferdamError | undefined;
  #closed = false;

  /**
   * @param live the device, on which no write is in flight now.
   * @param selected the blocks wanted; the others need no pre-images. Absent: all of them.
   */
  constructor(
    readonly serverId: string,
    live: BlockDevice,
    readonly blockSizeBytes: number,
    selected: SharedBitmap | undefined,
    limits: PreImageLimits,
    onClose: () => void,
  ) {
    const blockCount = Math.ceil(live.sizeBytes / blockSizeBytes);
    this.#live = live;
    this.preserved = new SharedBitmap(blockCount);
    this.copied = selected?.inverted() ?? new SharedBitmap(blockCount);
    this.selected = selected?.words;
    this.#preImages = new PreImageStore(blockSizeBytes, blockCount, limits);
    this.#onClose = onClose;
    this.device = new ReadOnlyDevice(`snapshot of ${serverId}`, live.sizeBytes, blockSizeBytes, this);
    this.native = live.nativeSource && {
      fd: live.nativeSource.fd,
      marks: { preserved: this.preserved.words, copied: this.copied.words },
      barrier: undefined,
    };
  }

  /**
   * Step 2 of a server's write path. Resolves when every block of the range is copied or preserved, or the snapshot is
   * broken; it never fails, because a backup never fails a client's write.
   */
  async preserve(offsetBytes: number, lengthBytes: number): Promise<void> {
    if (lengthBytes === 0) return;
    const last = Math.floor((offsetBytes + lengthBytes - 1) / this.blockSizeBytes);
    const blocksPerRun = Math.max(1, MiB / this.blockSizeBytes);
    let block = Math.floor(offsetBytes / this.blockSizeBytes);
    while (block <= last && !this.#broken) {
      const saving = this.#saving.get(block);
      if (saving) {
        await saving;
      } else if (this.#needsPreImage(block)) {
        let end = block + 1;
        while (
          end <= last &&
          end - block < blocksPerRun &&
          this.#needsPreImage(end) &&
          !this.#saving.has(end)
        )
          end++;
        await this.#saveOnce(block, end);
      } else {
        block++;
      }
    }
  }

  markCopied(firstBlock: number, blockCount: number): void {
    this.copied.addRange(firstBlock, firstBlock + blockCount);
    for (let block = firstBlock; block < firstBlock + blockCount; block++) {
      if (this.preserved.has(block)) this.#preImages.free(block);
    }
  }

  break(reason: string): void {
    this.#broken ??= new CofferdamError(
      'SNAPSHOT_BROKEN',
      `server ${this.serverId}: the snapshot broke: ${reason}; no write was held up, the backup has to be repeated`,
      { device: this.serverId },
    );
  }

  assertIntact(): Promise<void> {
    return this.#broken ? Promise.reject(this.#broken) : Promise.resolve();
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.break('it was closed');
    this.#onClose();
    await Promise.allSettled(this.#saving.values());
    await this.#preImages[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Reads as of the cut; see invariant 4 for why the bitmap is looked at after the device was read. */
  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    await this.#live.read(offsetBytes, into);
    const end = offsetBytes + into.length;
    for (const { block, fromBytes, toBytes } of this.#blocksOf(offsetBytes, end)) {
      if (this.preserved.has(block)) {
        const target = into.subarray(fromBytes - offsetBytes, toBytes - offsetBytes);
        await this.#preImages.get(block, fromBytes - block * this.blockSizeBytes, target);
      } else if (this.copied.has(block)) {
        throw new CofferdamError(
          'SNAPSHOT_BROKEN',
          `server ${this.serverId}: block ${block} was already given up`,
          {
            device: this.serverId,
            offsetBytes: fromBytes,
            lengthBytes: toBytes - fromBytes,
          },
        );
      }
    }
    await this.assertIntact();
  }

  /** The live device's map, asked before the bitmap is looked at; preserved blocks count as data. */
  async allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    const result: Extent[] = [];
    for (const extent of await this.#live.allocation(offsetBytes, lengthBytes)) {
      if (extent.kind === 'data') {
        appendExtent(result, extent);
        continue;
      }
      for (const { block, fromBytes, toBytes } of this.#blocksOf(
        extent.offsetBytes,
        extent.offsetBytes + extent.lengthBytes,
      )) {
        const kind = this.preserved.has(block) ? 'data' : 'zero';
        appendExtent(result, { offsetBytes: fromBytes, lengthBytes: toBytes - fromBytes, kind });
      }
    }
    return result;
  }

  *#blocksOf(
    fromBytes: number,
    endBytes: number,
  ): Generator<{ block: number; fromBytes: number; toBytes: number }> {
    let position = fromBytes;
    while (position < endBytes) {
      const block = Math.floor(position / this.blockSizeBytes);
      const toBytes = Math.min(endBytes, (block + 1) * this.blockSizeBytes);
      yield { block, fromBytes: position, toBytes };
      position = toBytes;
    }
  }

  #needsPreImage(block: number): boolean {
    return !this.copied.has(block) && !this.preserved.has(block);
  }

  async #saveOnce(first: number, end: number): Promise<void> {
    const saving = this.#save(first, end).catch((error: unknown) => this.break(messageOf(error)));
    for (let block = first; block < end; block++) this.#saving.set(block, saving);
    await saving;
    for (let block = first; block < end; block++) this.#saving.delete(block);
  }

  async #save(first: number, end: number): Promise<void> {
    const offsetBytes = first * this.blockSizeBytes;
    const endBytes = Math.min(end * this.blockSizeBytes, this.#live.sizeBytes);
    // Not asked for its allocation first: to find where a hole begins may take longer than to read what is there.
    const bytes = new Uint8Array(endBytes - offsetBytes);
    await this.#live.read(offsetBytes, bytes);
    for (let block = first; block < end; block++) {
      const from = (block - first) * this.blockSizeBytes;
      // Invariant 2: the pre-image is in the store before the bit says so.
      await this.#preImages.put(block, bytes.subarray(from, from + this.blockSizeBytes));
      this.preserved.add(block);
    }
  }
}
