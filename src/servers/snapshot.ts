import { SharedBitmap } from '../core/bitmap.js';
import { appendExtent, type BlockDevice, type Extent } from '../devices/block-device.js';
import { ReadOnlyDevice } from '../devices/read-only.js';
import { CofferdamError, messageOf } from '../runtime/errors.js';
import type { CutSource, NativeCutSource } from './control.js';
import { UNIT_BYTES, type CopyBeforeWrite } from './copy-before-write.js';
import { NativeSaver } from './native-saver.js';
import type { PreImageLimits } from './pre-image-limits.js';
import { UnitSaver } from './unit-saver.js';

/**
 * The contents of a device as of a cut, kept by copy-before-write while clients go on writing. Copiers deal in blocks;
 * what is saved are units, many of which make a block. Who saves them: JavaScript alone (`unit-saver.ts`), or JavaScript
 * and the native threads that write past it (`native-saver.ts`).
 *
 * Invariants, for every unit u of every block b while the snapshot is intact:
 * 1. Before a client's write to u reaches the device, b is copied, or u is saved and b is preserved.
 * 2. `preserved[b]` is set only after the pre-image of u is in the store, and u is marked as saved only after that.
 *    Neither is ever cleared. So whoever sees that u is saved need look at nothing else before a write.
 * 3. `copied[b]` is set only after the content as of the cut is in the copier's hands, and never cleared.
 * 4. So whoever reads b from the device and *then* finds `preserved[b]` clear has read the content as of the cut; and
 *    whoever reads u and then finds it saved finds the pre-image in the store until b is copied.
 * 5. A snapshot that cannot keep a pre-image breaks before the write that needed it goes on. It never comes back.
 */
export class Snapshot implements CutSource {
  /** @throws CofferdamError BAD_ARGUMENT for a block that is not made of whole units. */
  static checkBlockSize(blockSizeBytes: number): void {
    if (Number.isSafeInteger(blockSizeBytes) && blockSizeBytes > 0 && blockSizeBytes % UNIT_BYTES === 0)
      return;
    throw new CofferdamError(
      'BAD_ARGUMENT',
      `a snapshot in blocks of ${blockSizeBytes} bytes: it must be a multiple of ${UNIT_BYTES}`,
    );
  }

  readonly device: BlockDevice;
  readonly native: NativeCutSource | undefined;
  readonly selected: Int32Array<SharedArrayBuffer> | undefined;
  /** Blocks of which a unit is saved. */
  readonly preserved: SharedBitmap;
  readonly copied: SharedBitmap;
  /** Whether native threads preserve what they change themselves; else they may not change anything meanwhile. */
  readonly isNative: boolean;
  readonly #live: BlockDevice;
  readonly #saver: CopyBeforeWrite;
  readonly #onClose: () => void;
  /** Why it broke. */
  #broken: string | undefined;
  #closing: Promise<void> | undefined;

  /**
   * From its return on native threads preserve what they change.
   *
   * @param live the device, on which no write is in flight now.
   * @param selected the blocks wanted; the others need no pre-images. Absent: all of them.
   * @param onClose called when it is closed and uses the device no more.
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
    this.#onClose = onClose;
    this.device = new ReadOnlyDevice(`snapshot of ${serverId}`, live.sizeBytes, blockSizeBytes, this);
    const { fd, watch } = live.nativeSource ?? {};
    this.isNative = fd !== undefined && watch !== undefined;
    this.#saver =
      fd !== undefined && watch !== undefined
        ? new NativeSaver(live, { fd, watch }, this, limits)
        : new UnitSaver(live, this, limits);
    this.native = live.nativeSource && {
      fd: live.nativeSource.fd,
      marks: { preserved: this.preserved.words, copied: this.copied.words },
      barrier: undefined,
    };
  }

  /**
   * Step 2 of a server's write path. Resolves when every unit of the range is saved or its block copied, or the snapshot
   * is broken; it never fails, because a backup never fails a client's write.
   */
  async preserve(offsetBytes: number, lengthBytes: number): Promise<void> {
    if (lengthBytes === 0) return;
    try {
      await this.#saver.preserve(offsetBytes, lengthBytes);
    } catch (error) {
      this.break(messageOf(error));
    }
  }

  markCopied(firstBlock: number, blockCount: number): void {
    this.copied.addRange(firstBlock, firstBlock + blockCount);
    this.#saver.free(firstBlock, blockCount);
  }

  break(reason: string): void {
    this.#broken ??= reason;
    this.#saver.end();
  }

  async assertIntact(): Promise<void> {
    if (this.#broken === undefined) return;
    throw new CofferdamError(
      'SNAPSHOT_BROKEN',
      `server ${this.serverId}: the snapshot broke: ${this.#broken}; no write was held up, the backup has to be repeated`,
      { device: this.serverId },
    );
  }

  /** May be called again; every call resolves when nothing uses the device for it any more. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Reads as of the cut; see invariant 4 for why pre-images are looked for after the device was read. */
  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    await this.#saver.read(offsetBytes, into);
    // Only now: until its block is copied a pre-image is there.
    for (const { block, fromBytes, toBytes } of this.#blocksOf(offsetBytes, offsetBytes + into.length))
      if (this.copied.has(block)) throw this.#givenUp(block, fromBytes, toBytes);
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

  async #close(): Promise<void> {
    this.break('it was closed');
    try {
      await this.#saver[Symbol.asyncDispose]();
    } finally {
      this.#onClose();
    }
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

  #givenUp(block: number, fromBytes: number, toBytes: number): CofferdamError {
    return new CofferdamError(
      'SNAPSHOT_BROKEN',
      `server ${this.serverId}: block ${block} was already given up`,
      { device: this.serverId, offsetBytes: fromBytes, lengthBytes: toBytes - fromBytes },
    );
  }
}
