import { setImmediate } from 'node:timers/promises';
import { SharedBitmap } from '../core/bitmap.js';
import { appendExtent, type BlockDevice, type Extent } from '../devices/block-device.js';
import { ReadOnlyDevice } from '../devices/read-only.js';
import { CofferdamError, messageOf } from '../runtime/errors.js';
import { KiB, MiB } from '../runtime/sizes.js';
import type { CutSource, NativeCutSource } from './control.js';
import { PreImageStore, type PreImageLimits } from './pre-images.js';

/**
 * What is saved before a write is as little as this: a block is much more than what most writes change, and to read and
 * keep all of it for each would cost a busy device most of its speed.
 */
const UNIT_BYTES = 4 * KiB;

/** The most that is saved at once. */
const RUN_UNITS = MiB / UNIT_BYTES;

/** What a request saves before others get their turn. */
const TURN_UNITS = (4 * MiB) / UNIT_BYTES;

/**
 * The contents of a device as of a cut, kept by copy-before-write while clients go on writing. Copiers deal in blocks;
 * what is saved are units, many of which make a block.
 *
 * Invariants, for every unit u of every block b while the snapshot is intact:
 * 1. Before a client's write to u reaches the device, b is copied, or u is saved and b is preserved.
 * 2. u is marked as saved only after its pre-image is in the store, and `preserved[b]` is set only after that. Neither is
 *    ever cleared.
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
  readonly #live: BlockDevice;
  readonly #saved: SharedBitmap;
  readonly #unitsPerBlock: number;
  readonly #preImages: PreImageStore;
  /** Units on their way into the store. */
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
    const unitCount = Math.ceil(live.sizeBytes / UNIT_BYTES);
    this.#live = live;
    this.preserved = new SharedBitmap(blockCount);
    this.copied = selected?.inverted() ?? new SharedBitmap(blockCount);
    this.selected = selected?.words;
    this.#saved = new SharedBitmap(unitCount);
    this.#unitsPerBlock = blockSizeBytes / UNIT_BYTES;
    this.#preImages = new PreImageStore(UNIT_BYTES, unitCount, limits);
    this.#onClose = onClose;
    this.device = new ReadOnlyDevice(`snapshot of ${serverId}`, live.sizeBytes, blockSizeBytes, this);
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
    const last = Math.floor((offsetBytes + lengthBytes - 1) / UNIT_BYTES);
    let unit = Math.floor(offsetBytes / UNIT_BYTES);
    let savedNow = 0;
    while (unit <= last && !this.#broken) {
      const saving = this.#saving.get(unit);
      if (saving) {
        await saving;
      } else if (this.#needsPreImage(unit)) {
        const end = this.#runEnd(unit, last + 1);
        if (!this.#saveNow(unit, end)) await this.#saveOnce(unit, end);
        savedNow += end - unit;
        if (savedNow >= TURN_UNITS) {
          savedNow = 0;
          await setImmediate();
        }
      } else {
        unit++;
      }
    }
  }

  markCopied(firstBlock: number, blockCount: number): void {
    this.copied.addRange(firstBlock, firstBlock + blockCount);
    for (let block = firstBlock; block < firstBlock + blockCount; block++) {
      if (!this.preserved.has(block)) continue;
      const first = block * this.#unitsPerBlock;
      for (let unit = first; unit < first + this.#unitsPerBlock; unit++) this.#preImages.free(unit);
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

  /** Reads as of the cut; see invariant 4 for why the bitmaps are looked at after the device was read. */
  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    await this.#live.read(offsetBytes, into);
    const end = offsetBytes + into.length;
    for (const { block, fromBytes, toBytes } of this.#blocksOf(offsetBytes, end)) {
      if (this.copied.has(block)) throw this.#givenUp(block, fromBytes, toBytes);
      if (!this.preserved.has(block)) continue;
      for (let from = fromBytes; from < toBytes;) {
        const unit = Math.floor(from / UNIT_BYTES);
        const to = Math.min(toBytes, (unit + 1) * UNIT_BYTES);
        const part = into.subarray(from - offsetBytes, to - offsetBytes);
        if (this.#saved.has(unit)) await this.#preImages.get(unit, from - unit * UNIT_BYTES, part);
        from = to;
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

  #givenUp(block: number, fromBytes: number, toBytes: number): CofferdamError {
    return new CofferdamError(
      'SNAPSHOT_BROKEN',
      `server ${this.serverId}: block ${block} was already given up`,
      { device: this.serverId, offsetBytes: fromBytes, lengthBytes: toBytes - fromBytes },
    );
  }

  #needsPreImage(unit: number): boolean {
    return !this.copied.has(this.#blockOf(unit)) && !this.#saved.has(unit);
  }

  #blockOf(unit: number): number {
    return Math.floor(unit / this.#unitsPerBlock);
  }

  /** Where the run of units ends that begins with this one and can be saved together. */
  #runEnd(unit: number, limit: number): number {
    let end = unit + 1;
    while (end < limit && end - unit < RUN_UNITS && this.#needsPreImage(end) && !this.#saving.has(end)) end++;
    return end;
  }

  /** Saves units [first, end) in this turn. False where they have to be waited for; some may be saved then. */
  #saveNow(first: number, end: number): boolean {
    const { readNow } = this.#live;
    if (!readNow) return false;
    const { offsetBytes, bytes } = this.#bufferFor(first, end);
    const done = new Uint8Array(1);
    try {
      this.#live.readNow?.({ bytes, places: Float64Array.of(offsetBytes, 0, bytes.length) }, done);
    } catch {
      // Whoever waits for the read learns why it fails.
      return false;
    }
    if (done[0] !== 1) return false;
    try {
      for (let unit = first; unit < end; unit++) {
        // Invariant 2: the pre-image is in the store before a bit says so.
        if (!this.#preImages.putNow(unit, this.#partOf(bytes, unit - first))) return false;
        this.#markSaved(unit);
      }
    } catch (error) {
      this.break(messageOf(error));
    }
    return true;
  }

  async #saveOnce(first: number, end: number): Promise<void> {
    const saving = this.#save(first, end).catch((error: unknown) => this.break(messageOf(error)));
    for (let unit = first; unit < end; unit++) this.#saving.set(unit, saving);
    await saving;
    for (let unit = first; unit < end; unit++) this.#saving.delete(unit);
  }

  async #save(first: number, end: number): Promise<void> {
    // Not asked for its allocation first: to find where a hole begins may take longer than to read what is there.
    const { offsetBytes, bytes } = this.#bufferFor(first, end);
    await this.#live.read(offsetBytes, bytes);
    for (let unit = first; unit < end; unit++) {
      if (this.#saved.has(unit)) continue;
      await this.#preImages.put(unit, this.#partOf(bytes, unit - first));
      this.#markSaved(unit);
    }
  }

  #markSaved(unit: number): void {
    this.#saved.add(unit);
    this.preserved.add(this.#blockOf(unit));
  }

  #bufferFor(first: number, end: number): { offsetBytes: number; bytes: Uint8Array } {
    const offsetBytes = first * UNIT_BYTES;
    const endBytes = Math.min(end * UNIT_BYTES, this.#live.sizeBytes);
    return { offsetBytes, bytes: new Uint8Array(endBytes - offsetBytes) };
  }

  #partOf(bytes: Uint8Array, index: number): Uint8Array {
    return bytes.subarray(index * UNIT_BYTES, (index + 1) * UNIT_BYTES);
  }
}
