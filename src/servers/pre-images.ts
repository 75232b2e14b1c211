import { SharedBitmap } from '../core/bitmap.js';
import { isZero } from '../core/portable/zero.js';
import { limitsOf, type PreImageLimits } from './pre-image-limits.js';
import { SpillFile } from './spill-file.js';

/**
 * The old contents of what was overwritten while a snapshot is live, unit by unit: in memory up to a limit, then in a spill
 * file up to another. Units that held only zeros cost one bit.
 */
export class PreImageStore implements AsyncDisposable {
  readonly #limits: Required<PreImageLimits>;
  readonly #inMemory = new Map<number, Uint8Array>();
  readonly #zeros: SharedBitmap;
  readonly #spill: SpillFile;
  #memoryUsedBytes = 0;

  constructor(unitBytes: number, unitCount: number, limits: PreImageLimits = {}) {
    this.#zeros = new SharedBitmap(unitCount);
    this.#limits = limitsOf(limits);
    this.#spill = new SpillFile(unitBytes, this.#limits);
  }

  /**
   * Keeps a copy of `bytes`, the whole old content of `unit`.
   *
   * @throws CofferdamError SNAPSHOT_BROKEN when both limits are reached or the spill file cannot be written.
   */
  async put(unit: number, bytes: Uint8Array): Promise<void> {
    while (!this.putNow(unit, bytes)) await this.#spill.makeRoom();
  }

  /**
   * The same, at once; false, and nothing was kept, where the spill file has to be waited for.
   *
   * @throws as {@link put}
   */
  putNow(unit: number, bytes: Uint8Array): boolean {
    if (isZero(bytes)) {
      this.#zeros.add(unit);
      return true;
    }
    if (this.#memoryUsedBytes + bytes.length > this.#limits.memoryBytes) {
      return this.#spill.putNow(unit, bytes);
    }
    this.#memoryUsedBytes += bytes.length;
    this.#inMemory.set(unit, bytes.slice());
    return true;
  }

  /** Copies `into.length` bytes of the pre-image of `unit`, from `skipBytes` on, into `into`. */
  async get(unit: number, skipBytes: number, into: Uint8Array): Promise<void> {
    const bytes = this.#inMemory.get(unit);
    if (bytes) into.set(bytes.subarray(skipBytes, skipBytes + into.length));
    else if (this.#zeros.has(unit)) into.fill(0);
    else await this.#spill.get(unit, skipBytes, into);
  }

  /** Gives up the pre-image of a unit that has been copied. */
  free(unit: number): void {
    const bytes = this.#inMemory.get(unit);
    if (bytes) {
      this.#memoryUsedBytes -= bytes.length;
      this.#inMemory.delete(unit);
    }
    this.#spill.free(unit);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#inMemory.clear();
    await this.#spill[Symbol.asyncDispose]();
  }
}
