import { randomUUID } from 'node:crypto';
import { open, unlink, type FileHandle } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SharedBitmap } from '../core/bitmap.js';
import { isZero } from '../core/portable/zero.js';
import { CofferdamError } from '../runtime/errors.js';
import { formatBytes, GiB, MiB } from '../runtime/sizes.js';

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
  readonly #limits: Required<PreImageLimits>;
  readonly #inMemory = new Map<number, Uint8Array>();
  readonly #spilled = new Map<number, number>();
  readonly #zeros: SharedBitmap;
  readonly #freeSlots: number[] = [];
  #slots = 0;
  #memoryUsedBytes = 0;
  #spillFile: Promise<FileHandle> | undefined;

  constructor(
    readonly unitBytes: number,
    unitCount: number,
    limits: PreImageLimits = {},
  ) {
    this.#zeros = new SharedBitmap(unitCount);
    this.#limits = {
      memoryBytes: limits.memoryBytes ?? 64 * MiB,
      spillBytes: limits.spillBytes ?? GiB,
      directory: limits.directory ?? tmpdir(),
    };
  }

  /**
   * Keeps `bytes`, the whole old content of `unit`. The caller leaves them alone from now on.
   *
   * @throws CofferdamError SNAPSHOT_BROKEN when both limits are reached or the spill file cannot be written.
   */
  async put(unit: number, bytes: Uint8Array): Promise<void> {
    if (this.putNow(unit, bytes)) return;
    const slot = this.#freeSlots.pop() ?? this.#newSlot();
    try {
      this.#spillFile ??= openNameless(this.#limits.directory);
      const file = await this.#spillFile;
      const { bytesWritten } = await file.write(bytes, 0, bytes.length, slot * this.unitBytes);
      if (bytesWritten !== bytes.length) throw new Error('the disk is full');
    } catch (cause) {
      throw new CofferdamError(
        'SNAPSHOT_BROKEN',
        `pre-images could not be spilled to ${this.#limits.directory}: ${(cause as Error).message}`,
        { cause },
      );
    }
    this.#spilled.set(unit, slot);
  }

  /** The same, at once; false, and nothing was kept, where it has to be spilled. */
  putNow(unit: number, bytes: Uint8Array): boolean {
    if (isZero(bytes)) {
      this.#zeros.add(unit);
      return true;
    }
    if (this.#memoryUsedBytes + bytes.length > this.#limits.memoryBytes) return false;
    this.#memoryUsedBytes += bytes.length;
    // A part would keep the whole that it is of in memory.
    const isWhole = bytes.length === bytes.buffer.byteLength;
    this.#inMemory.set(unit, isWhole ? bytes : bytes.slice());
    return true;
  }

  /** Copies `into.length` bytes of the pre-image of `unit`, from `skipBytes` on, into `into`. */
  async get(unit: number, skipBytes: number, into: Uint8Array): Promise<void> {
    const bytes = this.#inMemory.get(unit);
    if (bytes) {
      into.set(bytes.subarray(skipBytes, skipBytes + into.length));
      return;
    }
    const slot = this.#spilled.get(unit);
    if (slot !== undefined && this.#spillFile) {
      const file = await this.#spillFile;
      const { bytesRead } = await file.read(into, 0, into.length, slot * this.unitBytes + skipBytes);
      if (bytesRead === into.length) return;
      throw new CofferdamError('SNAPSHOT_BROKEN', `the spill file of pre-images is damaged at unit ${unit}`);
    }
    if (this.#zeros.has(unit)) {
      into.fill(0);
      return;
    }
    throw new CofferdamError('SNAPSHOT_BROKEN', `the pre-image of unit ${unit} was already given up`);
  }

  /** Gives up the pre-image of a unit that has been copied. */
  free(unit: number): void {
    const bytes = this.#inMemory.get(unit);
    if (bytes) {
      this.#memoryUsedBytes -= bytes.length;
      this.#inMemory.delete(unit);
    }
    const slot = this.#spilled.get(unit);
    if (slot !== undefined) {
      this.#spilled.delete(unit);
      this.#freeSlots.push(slot);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#inMemory.clear();
    this.#spilled.clear();
    const file = this.#spillFile;
    this.#spillFile = undefined;
    await (await file?.catch(() => undefined))?.close();
  }

  #newSlot(): number {
    if ((this.#slots + 1) * this.unitBytes > this.#limits.spillBytes) {
      throw new CofferdamError(
        'SNAPSHOT_BROKEN',
        `pre-images reached their limit of ${formatBytes(this.#limits.memoryBytes)} in memory and ` +
          `${formatBytes(this.#limits.spillBytes)} spilled; allow more, or copy when there are fewer writes`,
      );
    }
    return this.#slots++;
  }
}

async function openNameless(directory: string): Promise<FileHandle> {
  const path = join(directory, `.cofferdam-pre-images-${randomUUID()}`);
  const file = await open(path, 'wx+', 0o600);
  await unlink(path);
  return file;
}
