import { setImmediate } from 'node:timers/promises';
import { SharedBitmap } from '../core/bitmap.js';
import type { BlockDevice } from '../devices/block-device.js';
import { MiB } from '../runtime/sizes.js';
import { UNIT_BYTES, type CopyBeforeWrite, type SnapshotMarks } from './copy-before-write.js';
import type { PreImageLimits } from './pre-image-limits.js';
import { PreImageStore } from './pre-images.js';

/** The most that is saved at once. */
const RUN_UNITS = MiB / UNIT_BYTES;

/** What a request saves before others get their turn. */
const TURN_UNITS = (4 * MiB) / UNIT_BYTES;

/** Copy-before-write for devices that only JavaScript writes to; any device will do. */
export class UnitSaver implements CopyBeforeWrite {
  readonly #live: BlockDevice;
  readonly #marks: SnapshotMarks;
  readonly #saved: SharedBitmap;
  readonly #unitsPerBlock: number;
  readonly #preImages: PreImageStore;
  /** Units on their way into the store. */
  readonly #saving = new Map<number, Promise<void>>();
  #isOver = false;

  constructor(live: BlockDevice, marks: SnapshotMarks, limits: PreImageLimits) {
    const unitCount = Math.ceil(live.sizeBytes / UNIT_BYTES);
    this.#live = live;
    this.#marks = marks;
    this.#saved = new SharedBitmap(unitCount);
    this.#unitsPerBlock = marks.blockSizeBytes / UNIT_BYTES;
    this.#preImages = new PreImageStore(UNIT_BYTES, unitCount, limits);
  }

  async preserve(offsetBytes: number, lengthBytes: number): Promise<void> {
    const last = Math.floor((offsetBytes + lengthBytes - 1) / UNIT_BYTES);
    let unit = Math.floor(offsetBytes / UNIT_BYTES);
    let savedNow = 0;
    while (unit <= last && !this.#isOver) {
      const saving = this.#saving.get(unit);
      if (saving) {
        await saving;
      } else if (this.#needsPreImage(unit)) {
        const end = this.#runEnd(unit, last + 1);
        await this.#saveOnce(unit, end);
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

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    await this.#live.read(offsetBytes, into);
    const end = offsetBytes + into.length;
    for (let from = offsetBytes; from < end;) {
      const unit = Math.floor(from / UNIT_BYTES);
      const to = Math.min(end, (unit + 1) * UNIT_BYTES);
      const part = into.subarray(from - offsetBytes, to - offsetBytes);
      if (this.#saved.has(unit)) await this.#preImages.get(unit, from - unit * UNIT_BYTES, part);
      from = to;
    }
  }

  free(firstBlock: number, blockCount: number): void {
    for (let block = firstBlock; block < firstBlock + blockCount; block++) {
      if (!this.#marks.preserved.has(block)) continue;
      const first = block * this.#unitsPerBlock;
      for (let unit = first; unit < first + this.#unitsPerBlock; unit++) this.#preImages.free(unit);
    }
  }

  end(): void {
    this.#isOver = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#saving.values());
    await this.#preImages[Symbol.asyncDispose]();
  }

  #needsPreImage(unit: number): boolean {
    return !this.#marks.copied.has(this.#blockOf(unit)) && !this.#saved.has(unit);
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

  async #saveOnce(first: number, end: number): Promise<void> {
    const saving = this.#save(first, end);
    for (let unit = first; unit < end; unit++) this.#saving.set(unit, saving);
    try {
      await saving;
    } finally {
      for (let unit = first; unit < end; unit++) this.#saving.delete(unit);
    }
  }

  async #save(first: number, end: number): Promise<void> {
    // Not asked for its allocation first: to find where a hole begins may take longer than to read what is there.
    const offsetBytes = first * UNIT_BYTES;
    const bytes = new Uint8Array(Math.min(end * UNIT_BYTES, this.#live.sizeBytes) - offsetBytes);
    await this.#live.read(offsetBytes, bytes);
    for (let unit = first; unit < end; unit++) {
      const from = unit * UNIT_BYTES - offsetBytes;
      await this.#preImages.put(unit, bytes.subarray(from, from + UNIT_BYTES));
      this.#markSaved(unit);
    }
  }

  #markSaved(unit: number): void {
    this.#marks.preserved.add(this.#blockOf(unit));
    this.#saved.add(unit);
  }
}
