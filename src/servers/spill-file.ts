import { randomUUID } from 'node:crypto';
import { open, unlink, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import type { Core } from '../core/core.js';
import { loadCore } from '../core/load.js';
import { CofferdamError, messageOf } from '../runtime/errors.js';
import { MiB } from '../runtime/sizes.js';
import { limitReached, type PreImageLimits } from './pre-image-limits.js';

/** Units are written together, this much at a time. */
const SEGMENT_BYTES = MiB;

/** A unit that is not in the file yet: where it is to go, and where it is in the segment. */
interface Pending {
  slot: number;
  atBytes: number;
  isFreed: boolean;
}

/** What is written together. */
interface Segment {
  readonly bytes: Uint8Array;
  readonly units: Map<number, Pending>;
  usedBytes: number;
}

/**
 * Pre-images that have no room in memory, in a file without a name that vanishes with the process. Its space is used again.
 *
 * Invariants:
 * 1. A unit that was put is in exactly one place until it is freed: in the segment that is filled, in the one that is on its
 *    way, or in the file.
 * 2. A slot of the file is used again only once nothing that is on its way goes there.
 */
export class SpillFile implements AsyncDisposable {
  readonly #unitBytes: number;
  readonly #limits: Required<PreImageLimits>;
  readonly #inFile = new Map<number, number>();
  readonly #freeSlots: number[] = [];
  #slots = 0;
  #filling: Segment | undefined;
  #leaving: Segment | undefined;
  #writing: Promise<void> | undefined;
  #failure: CofferdamError | undefined;
  #file: Promise<{ handle: FileHandle; core: Core }> | undefined;

  constructor(unitBytes: number, limits: Required<PreImageLimits>) {
    this.#unitBytes = unitBytes;
    this.#limits = limits;
  }

  /**
   * Takes a unit if there is room in the segment that is filled; it is written with the others later.
   *
   * @throws CofferdamError SNAPSHOT_BROKEN when the limit is reached or the file could not be written.
   */
  putNow(unit: number, bytes: Uint8Array): boolean {
    if (this.#failure) throw this.#failure;
    this.#filling ??= { bytes: new Uint8Array(SEGMENT_BYTES), units: new Map(), usedBytes: 0 };
    const segment = this.#filling;
    if (segment.usedBytes + bytes.length > SEGMENT_BYTES) return false;
    const slot = this.#freeSlots.pop() ?? this.#newSlot();
    segment.bytes.set(bytes, segment.usedBytes);
    segment.units.set(unit, { slot, atBytes: segment.usedBytes, isFreed: false });
    // A short unit, the last of a device, takes a whole place.
    segment.usedBytes += this.#unitBytes;
    if (segment.usedBytes + this.#unitBytes > SEGMENT_BYTES) this.#writeOut();
    return true;
  }

  /** Resolves when a segment has gone that was in the way, or could not go. */
  async makeRoom(): Promise<void> {
    this.#writeOut();
    await this.#writing;
  }

  /** @throws CofferdamError SNAPSHOT_BROKEN if there is no such unit, or the file cannot be read. */
  async get(unit: number, skipBytes: number, into: Uint8Array): Promise<void> {
    for (const segment of [this.#filling, this.#leaving]) {
      const pending = segment?.units.get(unit);
      if (!segment || !pending || pending.isFreed) continue;
      const from = pending.atBytes + skipBytes;
      into.set(segment.bytes.subarray(from, from + into.length));
      return;
    }
    const slot = this.#inFile.get(unit);
    if (slot === undefined || !this.#file) {
      throw new CofferdamError('SNAPSHOT_BROKEN', `the pre-image of unit ${unit} was already given up`);
    }
    const { handle, core } = await this.#file;
    const offsetBytes = slot * this.#unitBytes + skipBytes;
    // It was written a moment ago, so the page cache has it.
    const done = new Uint8Array(1);
    core.readCached(handle.fd, { bytes: into, places: Float64Array.of(offsetBytes, 0, into.length) }, done);
    if (done[0] === 1) return;
    const { bytesRead } = await handle.read(into, 0, into.length, offsetBytes);
    if (bytesRead === into.length) return;
    throw new CofferdamError('SNAPSHOT_BROKEN', `the spill file of pre-images is damaged at unit ${unit}`);
  }

  free(unit: number): void {
    const slot = this.#inFile.get(unit);
    if (slot !== undefined) {
      this.#inFile.delete(unit);
      this.#freeSlots.push(slot);
    }
    const filling = this.#filling?.units.get(unit);
    if (filling) {
      this.#filling?.units.delete(unit);
      this.#freeSlots.push(filling.slot);
    }
    // Invariant 2: this slot is about to be written to.
    const leaving = this.#leaving?.units.get(unit);
    if (leaving) leaving.isFreed = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#writing;
    this.#filling = undefined;
    this.#inFile.clear();
    const file = this.#file;
    this.#file = undefined;
    await (await file?.catch(() => undefined))?.handle.close();
  }

  #writeOut(): void {
    if (this.#writing || !this.#filling) return;
    this.#leaving = this.#filling;
    this.#filling = undefined;
    this.#writing = this.#write(this.#leaving);
  }

  async #write({ bytes, units }: Segment): Promise<void> {
    try {
      this.#file ??= openNameless(this.#limits.directory);
      const { handle, core } = await this.#file;
      const pending = [...units.values()];
      const places = pending.flatMap(({ slot, atBytes }) => [
        slot * this.#unitBytes,
        atBytes,
        this.#unitBytes,
      ]);
      await core.write(handle.fd, [{ bytes, places: Float64Array.from(places) }]);
      for (const [unit, { slot, isFreed }] of units) {
        if (isFreed) this.#freeSlots.push(slot);
        else this.#inFile.set(unit, slot);
      }
      this.#leaving = undefined;
    } catch (cause) {
      // What is in the segment stays readable; but nothing more can be taken.
      this.#failure = new CofferdamError(
        'SNAPSHOT_BROKEN',
        `pre-images could not be spilled to ${this.#limits.directory}: ${messageOf(cause)}`,
        { cause },
      );
    }
    this.#writing = undefined;
  }

  #newSlot(): number {
    if ((this.#slots + 1) * this.#unitBytes > this.#limits.spillBytes) throw limitReached(this.#limits);
    return this.#slots++;
  }
}

async function openNameless(directory: string): Promise<{ handle: FileHandle; core: Core }> {
  const core = await loadCore();
  const path = join(directory, `.cofferdam-pre-images-${randomUUID()}`);
  const handle = await open(path, 'wx+', 0o600);
  await unlink(path);
  return { handle, core };
}
