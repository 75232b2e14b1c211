import { SharedBitmap } from '../core/bitmap.js';
import { isZero } from '../core/portable/zero.js';
import { GiB, MiB } from '../runtime/sizes.js';
import { SpillFile } from './spill-file.js';

export interface PreImageLimits {
  /** How many bytes of pre-images one snapshot keeps in memory. Default 64 MiB. */
  memoryBytes?: number;
  /** How many more it may keep in a spill file. Default 1 GiB. */
  spillBytes?: number;
  /** Where the spill file goes; it has no name and vanishes with the process. Default: the system's temporary folder. */
  directory?: string;
}

/**
 * The old contents of what was overwritten while a snapshot is live, unit by unit: in memory up to a limit, then in a spill
 * file up to another. Units that held only zeros cost one bit.
 */
export class PreImageStore implements AsyncDisposable {
  readonly #memoryLimitBytes: number;
  readonly #inMemory = new Map<number, Uint8Array>();
  readonly #zeros: SharedBitmap;
  readonly #spill: SpillFile;
  #memoryUsedBytes = 0;

  constructor(unitBytes: number, unitCount: number, limits: PreImageLimits = {}) {
    this.#zeros = new SharedBitmap(unitCount);
    this.#memoryLimitBytes = limits.memoryBytes ?? 64 * MiB;
    this.#spill = new SpillFile(unitBytes, limits.spillBytes ?? GiB, limits.directory);
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
    if (this.#memoryUsedBytes + bytes.length > this.#memoryLimitBytes) {
      return this.#spill.putNow(unit, bytes, this.#memoryLimitBytes);
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
