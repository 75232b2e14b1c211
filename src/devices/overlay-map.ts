import type { Core } from '../core/core.js';
import { CofferdamError } from '../runtime/errors.js';
import { MiB, SECTOR_BYTES } from '../runtime/sizes.js';
import type { BlockDevice } from './block-device.js';
import { aligned, endOf } from './byte-range.js';
import { BLOCKS_PER_SECTOR, STATE_BYTES, type OverlayLayout } from './overlay-header.js';

/** Where the content of a block is; the numbers are those in the file. */
export const BlockState = {
  /** On the base: it was never changed. */
  Base: 0,
  /** In the overlay, all of it. */
  Data: 1,
  /** Nowhere: it is zeros. */
  Zero: 2,
} as const;

export type State = (typeof BlockState)[keyof typeof BlockState];

/** Blocks side by side that are in one state. */
export interface BlockRun {
  first: number;
  count: number;
  state: State;
}

/** A part of the map as it is in the file. */
export interface MapPart {
  offsetBytes: number;
  bytes: Uint8Array;
}

/** Sectors of the map that are read or written at once. */
const PART_SECTORS = MiB / SECTOR_BYTES;

/**
 * The state of every block, in memory as in the file: block n's are bits 2 (n mod 4) and the next of byte floor(n / 4). A
 * sector of the file holds 504 of these bytes and then their xxh64. One of zeros, such as a hole, says that its blocks are
 * the base's.
 *
 * Invariant: a sector whose states differ from those that were last taken, or loaded, is in `#changed`.
 */
export class OverlayMap {
  readonly #layout: OverlayLayout;
  readonly #core: Core;
  readonly #states: Uint8Array;
  readonly #changed = new Set<number>();

  private constructor(layout: OverlayLayout, core: Core) {
    this.#layout = layout;
    this.#core = core;
    // The memory of a map that is mostly zeros is mostly not there.
    this.#states = new Uint8Array((layout.mapBytes / SECTOR_BYTES) * STATE_BYTES);
  }

  /** @throws CofferdamError OVERLAY_CORRUPT, and what reading throws */
  static async load(file: BlockDevice, layout: OverlayLayout, core: Core): Promise<OverlayMap> {
    const map = new OverlayMap(layout, core);
    for (const extent of await file.allocation(layout.mapOffsetBytes, layout.mapBytes)) {
      if (extent.kind === 'zero') continue;
      const range = aligned(extent);
      const end = Math.min(endOf(range), layout.mapOffsetBytes + layout.mapBytes);
      for (let at = range.offsetBytes; at < end; at += PART_SECTORS * SECTOR_BYTES) {
        const bytes = new Uint8Array(Math.min(PART_SECTORS * SECTOR_BYTES, end - at));
        await file.read(at, bytes);
        map.#accept(file.name, at, bytes);
      }
    }
    return map;
  }

  stateOf(block: number): State {
    return (((this.#states[Math.floor(block / 4)] ?? 0) >> (2 * (block % 4))) & 3) as State;
  }

  /** The blocks of a range, in order, in the longest runs. */
  *runs(firstBlock: number, blockCount: number): Generator<BlockRun> {
    const end = firstBlock + blockCount;
    for (let first = firstBlock; first < end;) {
      const state = this.stateOf(first);
      const stop = this.#endOfRun(first, end, state);
      yield { first, count: stop - first, state };
      first = stop;
    }
  }

  set(firstBlock: number, blockCount: number, state: State): void {
    for (const run of this.runs(firstBlock, blockCount)) {
      // Writing to a block again costs the map nothing.
      if (run.state !== state) this.#fill(run.first, run.first + run.count, state);
    }
  }

  /** What changed since this was last called, as it is now. */
  takeChanged(): MapPart[] {
    const sectors = [...this.#changed].sort((a, b) => a - b);
    this.#changed.clear();
    const parts: MapPart[] = [];
    for (let i = 0; i < sectors.length;) {
      const first = sectors[i] ?? 0;
      let count = 1;
      while (count < PART_SECTORS && sectors[i + count] === first + count) count++;
      parts.push(this.#encode(first, count));
      i += count;
    }
    return parts;
  }

  #endOfRun(first: number, end: number, state: State): number {
    const four = state * 0x55;
    let block = first;
    while (block < end) {
      if (block % 4 === 0 && block + 4 <= end && this.#states[block / 4] === four) block += 4;
      else if (this.stateOf(block) === state) block++;
      else break;
    }
    return block;
  }

  #fill(first: number, end: number, state: State): void {
    const inner = Math.min(end, Math.ceil(first / 4) * 4);
    const outer = Math.max(inner, Math.floor(end / 4) * 4);
    for (let block = first; block < inner; block++) this.#setOne(block, state);
    this.#states.fill(state * 0x55, inner / 4, outer / 4);
    for (let block = outer; block < end; block++) this.#setOne(block, state);
    const lastSector = Math.floor((end - 1) / BLOCKS_PER_SECTOR);
    for (let sector = Math.floor(first / BLOCKS_PER_SECTOR); sector <= lastSector; sector++) {
      this.#changed.add(sector);
    }
  }

  #setOne(block: number, state: State): void {
    const index = Math.floor(block / 4);
    const shift = 2 * (block % 4);
    this.#states[index] = ((this.#states[index] ?? 0) & ~(3 << shift)) | (state << shift);
  }

  #encode(firstSector: number, count: number): MapPart {
    const bytes = new Uint8Array(count * SECTOR_BYTES);
    for (let i = 0; i < count; i++) {
      const start = (firstSector + i) * STATE_BYTES;
      const states = this.#states.subarray(start, start + STATE_BYTES);
      bytes.set(states, i * SECTOR_BYTES);
      bytes.set(this.#core.hash('xxh64', states), i * SECTOR_BYTES + STATE_BYTES);
    }
    return { offsetBytes: this.#layout.mapOffsetBytes + firstSector * SECTOR_BYTES, bytes };
  }

  #accept(name: string, offsetBytes: number, bytes: Uint8Array): void {
    const firstSector = (offsetBytes - this.#layout.mapOffsetBytes) / SECTOR_BYTES;
    for (let i = 0; i * SECTOR_BYTES < bytes.length; i++) {
      const sector = bytes.subarray(i * SECTOR_BYTES, (i + 1) * SECTOR_BYTES);
      if (this.#core.isZero(sector)) continue;
      const states = sector.subarray(0, STATE_BYTES);
      const isRight =
        Buffer.compare(this.#core.hash('xxh64', states), sector.subarray(STATE_BYTES)) === 0 &&
        // No block is in state 3.
        states.every((four) => (four & (four >> 1) & 0x55) === 0);
      if (!isRight) throw damaged(name, offsetBytes + i * SECTOR_BYTES);
      this.#states.set(states, (firstSector + i) * STATE_BYTES);
    }
  }
}

function damaged(name: string, offsetBytes: number): CofferdamError {
  return new CofferdamError(
    'OVERLAY_CORRUPT',
    `${name}: its map is damaged (${SECTOR_BYTES} bytes at ${offsetBytes}), so what was written to it is lost in part; ` +
      'start anew with another file',
    { device: name, offsetBytes, lengthBytes: SECTOR_BYTES },
  );
}
