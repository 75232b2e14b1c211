import type { Core } from '../core/core.js';
import { loadCore } from '../core/load.js';
import { CofferdamError, invariant, isCofferdamError } from '../runtime/errors.js';
import { forEachParallel } from '../runtime/parallel.js';
import {
  appendExtent,
  type BlockDevice,
  type Capabilities,
  type Extent,
  type WriteOptions,
  type WriteZeroesOptions,
} from './block-device.js';
import { aligned, covers, endOf, intersection, type ByteRange } from './byte-range.js';
import { closeAll } from './composite.js';
import { DataSync } from './data-sync.js';
import { FileDevice } from './file.js';
import { Lifetime } from './lifetime.js';
import { decodeHeader, encodeHeader, headerLength, newLayout, type OverlayLayout } from './overlay-header.js';
import { BlockState, OverlayMap, type State } from './overlay-map.js';
import { RangeLock } from './range-lock.js';
import { allSettled } from './settle.js';

export interface OverlayOptions {
  /** What is beneath. Nobody may change it, now or later. The overlay closes it. */
  base: BlockDevice;
  /** Names the contents of the base, in up to 440 bytes of UTF-8. An overlay is opened again only over the same. */
  baseName: string;
  /** The core to use. Default: the best there is. */
  core?: Core | undefined;
}

/** A request on more runs of blocks than this has others wait. */
const MOST_AT_ONCE = 16;

/**
 * A device that can be written over one that cannot: what is written goes to a file, and the rest is read from the base.
 *
 * Invariants:
 * 1. A block in state `Data` has all of its bytes in the file. So a block is filled around what is written to it before it
 *    becomes `Data`.
 * 2. The map in the file says `Data` of a block only once the block's bytes are durable; see `#commit`. Until then a
 *    power cut leaves the block as the map has it: the base's, or zeros.
 * 3. Changes of the same block are made one after the other, under `#lock`. Reads need no lock: what they see of the state
 *    is that of before or after a change at the same time, and the bytes for both are there.
 */
export class OverlayDevice implements BlockDevice {
  readonly name: string;
  readonly sizeBytes: number;
  readonly capabilities: Capabilities;
  /** The bytes are in two places. */
  readonly nativeSource = undefined;
  readonly #base: BlockDevice;
  readonly #file: BlockDevice;
  readonly #layout: OverlayLayout;
  readonly #map: OverlayMap;
  readonly #lock = new RangeLock();
  readonly #sync = new DataSync(() => this.#commit());
  readonly #lifetime = new Lifetime(this);

  private constructor(base: BlockDevice, file: BlockDevice, layout: OverlayLayout, map: OverlayMap) {
    this.name = `${file.name} over ${base.name}`;
    this.sizeBytes = base.sizeBytes;
    this.#base = base;
    this.#file = file;
    this.#layout = layout;
    this.#map = map;
    this.capabilities = {
      readOnly: false, // Whatever the base is.
      fua: false, // A write is durable when the map is, and that takes a flush.
      trim: file.capabilities.trim, // The file gives back the space of whole blocks.
      fastZero: file.capabilities.fastZero, // Whole blocks cost two bits, but parts of blocks and `mayTrim: false` the file.
      multiConnection: true, // There is one file and one map.
      preferredBlockBytes: layout.blockBytes, // Parts of blocks are filled up from the base.
    };
  }

  /**
   * Opens the overlay in a file, or makes one if there is no file. What is not an overlay of this base is left as it is.
   * While it is open the file is locked against all others.
   *
   * @throws CofferdamError NOT_AN_OVERLAY, OVERLAY_CORRUPT, DEVICE_UNSUPPORTED, and as {@link FileDevice.open}. The base
   * stays open then.
   */
  static async open(path: string, options: OverlayOptions): Promise<OverlayDevice> {
    const { base, core = await loadCore() } = options;
    const { file, isNew } = await openOrCreate(path, newLayout(base.sizeBytes).fileBytes, core);
    try {
      if (isNew) await initialise(file, options, core);
      return await OverlayDevice.on(file, { ...options, core });
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /**
   * Opens the overlay on a device, which it closes with itself; a device of zeros becomes an empty one. A range that is
   * trimmed on it must read as before or as zeros.
   *
   * @throws CofferdamError as {@link open}
   */
  static async on(file: BlockDevice, options: OverlayOptions): Promise<OverlayDevice> {
    const { base, baseName, core = await loadCore() } = options;
    // The first opener of the file came no further.
    if (await isBlank(file, newLayout(base.sizeBytes), core)) await initialise(file, options, core);
    const layout = await readLayout(file, base, baseName, core);
    return new OverlayDevice(base, file, layout, await OverlayMap.load(file, layout, core));
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    using _request = this.#lifetime.admit('read', offsetBytes, into.byteLength);
    const range = { offsetBytes, lengthBytes: into.byteLength };
    await forEachParallel(this.#partsOf(range), MOST_AT_ONCE, async ({ state, ...part }) => {
      const start = part.offsetBytes - offsetBytes;
      const bytes = into.subarray(start, start + part.lengthBytes);
      if (state === BlockState.Zero) bytes.fill(0);
      else if (state === BlockState.Base) await this.#base.read(part.offsetBytes, bytes);
      else await this.#file.read(this.#placeOf(part.offsetBytes), bytes);
    });
  }

  async write(offsetBytes: number, bytes: Uint8Array, options?: WriteOptions): Promise<void> {
    using _request = this.#lifetime.admit('write', offsetBytes, bytes.byteLength);
    if (bytes.byteLength === 0) return;
    await this.#put({ offsetBytes, lengthBytes: bytes.byteLength }, bytes);
    if (options?.fua) await this.#sync.run();
  }

  async flush(): Promise<void> {
    using _request = this.#lifetime.admitFlush();
    await this.#sync.run();
  }

  /** What is not a whole block stays as it is. */
  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    using _request = this.#lifetime.admit('trim', offsetBytes, lengthBytes);
    await this.#drop(this.#wholeBlocks({ offsetBytes, lengthBytes }));
  }

  async writeZeroes(offsetBytes: number, lengthBytes: number, options?: WriteZeroesOptions): Promise<void> {
    using _request = this.#lifetime.admit('write zeroes', offsetBytes, lengthBytes);
    const range = { offsetBytes, lengthBytes };
    const inner = options?.mayTrim === false ? { offsetBytes, lengthBytes: 0 } : this.#wholeBlocks(range);
    await this.#put({ offsetBytes, lengthBytes: inner.offsetBytes - offsetBytes }, 'zeros');
    await this.#drop(inner);
    await this.#put({ offsetBytes: endOf(inner), lengthBytes: endOf(range) - endOf(inner) }, 'zeros');
    if (options?.fua && lengthBytes > 0) await this.#sync.run();
  }

  async allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    using _request = this.#lifetime.admit('allocation', offsetBytes, lengthBytes);
    const extents: Extent[] = [];
    for (const { state, ...part } of this.#partsOf({ offsetBytes, lengthBytes })) {
      if (state === BlockState.Base) {
        const beneath = await this.#base.allocation(part.offsetBytes, part.lengthBytes);
        for (const extent of beneath) appendExtent(extents, extent);
      } else {
        appendExtent(extents, { ...part, kind: state === BlockState.Zero ? 'zero' : 'data' });
      }
    }
    return extents;
  }

  close(): Promise<void> {
    return this.#lifetime.close(() => closeAll([this.#file, this.#base]));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Makes durable what was answered so far. */
  async #commit(): Promise<void> {
    // 1. Take the states before the sync: those that change during it may be of blocks that it does not cover.
    const changed = this.#map.takeChanged();
    // 2. The blocks are durable, so the map may now lead to them.
    await this.#file.flush();
    if (changed.length === 0) return;
    // 3. Any sector of the map may be written before any other: each state in it is true by itself.
    for (const { offsetBytes, bytes } of changed) await this.#file.write(offsetBytes, bytes);
    // 4. The map is durable.
    await this.#file.flush();
  }

  /** Writes to a range of the file, and makes its blocks `Data`. */
  async #put(range: ByteRange, content: Uint8Array | 'zeros'): Promise<void> {
    if (range.lengthBytes === 0) return;
    const blocks = this.#blocksAround(range);
    using _claim = await this.#lock.acquire(blocks.offsetBytes, blocks.lengthBytes);
    const filled = this.#blocksToFill(range);
    let [start, end] = [range.offsetBytes, endOf(range)];
    for (const block of filled) {
      if (block.offsetBytes <= start) start = endOf(block);
      else end = block.offsetBytes;
    }
    const writes = filled.map((block) => this.#putFilled(block, range, content));
    if (start < end) {
      const direct = { offsetBytes: start, lengthBytes: end - start };
      writes.push(this.#putDirect(direct, partOf(content, range, direct)));
    }
    await allSettled(writes);
    const { first, count } = this.#numbersOf(blocks);
    this.#map.set(first, count, BlockState.Data);
  }

  async #putDirect({ offsetBytes, lengthBytes }: ByteRange, content: Uint8Array | 'zeros'): Promise<void> {
    const place = this.#placeOf(offsetBytes);
    // Room is kept for zeros that are not to be a hole; those that may be one are whole blocks, and dropped.
    if (content === 'zeros') await this.#file.writeZeroes(place, lengthBytes, { mayTrim: false });
    else await this.#file.write(place, content);
  }

  /**
   * Writes a block whole, what is written to a part of it with what it holds around that. In one write: the map in the file
   * may lead to the block already, if it was zeroed since the last flush, and then a power cut must not tear the sectors
   * that are shared by both.
   */
  async #putFilled(block: ByteRange, range: ByteRange, content: Uint8Array | 'zeros'): Promise<void> {
    const bytes = new Uint8Array(block.lengthBytes);
    const { first } = this.#numbersOf(block);
    if (this.#map.stateOf(first) === BlockState.Base) await this.#base.read(block.offsetBytes, bytes);
    const part = intersection(block, range);
    invariant(part !== undefined, 'a block to fill is one that is written to');
    const piece = partOf(content, range, part);
    const start = part.offsetBytes - block.offsetBytes;
    if (piece === 'zeros') bytes.fill(0, start, start + part.lengthBytes);
    else bytes.set(piece, start);
    await this.#file.write(this.#placeOf(block.offsetBytes), bytes);
  }

  /** The blocks at both ends of a range that lie in it in part and are not in the file: none, one or two. */
  #blocksToFill(range: ByteRange): ByteRange[] {
    const ends = [
      { ...range, lengthBytes: 1 },
      { offsetBytes: endOf(range) - 1, lengthBytes: 1 },
    ];
    const [head, tail] = ends.map((end) => this.#blocksAround(end));
    const blocks = head?.offsetBytes === tail?.offsetBytes ? [head] : [head, tail];
    return blocks
      .filter((block) => block !== undefined)
      .filter((block) => !covers(range, block))
      .filter((block) => this.#map.stateOf(this.#numbersOf(block).first) !== BlockState.Data);
  }

  /** Makes whole blocks zeros and gives their space back. */
  async #drop(blocks: ByteRange): Promise<void> {
    if (blocks.lengthBytes === 0) return;
    using _claim = await this.#lock.acquire(blocks.offsetBytes, blocks.lengthBytes);
    for (const { state, ...part } of this.#partsOf(blocks)) {
      const { first, count } = this.#numbersOf(part);
      this.#map.set(first, count, BlockState.Zero);
      // The map in the file may go on saying `Data` until the next flush: a power cut leaves what was there, or zeros.
      if (state === BlockState.Data) await this.#file.trim(this.#placeOf(part.offsetBytes), part.lengthBytes);
    }
  }

  /** The parts of a range whose blocks are in one state each, in order. */
  *#partsOf(range: ByteRange): Generator<ByteRange & { state: State }> {
    if (range.lengthBytes === 0) return;
    const { blockBytes } = this.#layout;
    const { first, count } = this.#numbersOf(this.#blocksAround(range));
    for (const run of this.#map.runs(first, count)) {
      const start = Math.max(range.offsetBytes, run.first * blockBytes);
      const end = Math.min(endOf(range), (run.first + run.count) * blockBytes);
      yield { offsetBytes: start, lengthBytes: end - start, state: run.state };
    }
  }

  /** The range grown to whole blocks. The last one of the device may be short. */
  #blocksAround(range: ByteRange): ByteRange {
    const { offsetBytes, lengthBytes } = aligned(range, this.#layout.blockBytes);
    return { offsetBytes, lengthBytes: Math.min(lengthBytes, this.sizeBytes - offsetBytes) };
  }

  /** What of a range is whole blocks; its length may be 0, and it lies within the range. */
  #wholeBlocks(range: ByteRange): ByteRange {
    const { blockBytes } = this.#layout;
    const start = Math.ceil(range.offsetBytes / blockBytes) * blockBytes;
    const isToEnd = endOf(range) === this.sizeBytes;
    const end = isToEnd ? this.sizeBytes : Math.floor(endOf(range) / blockBytes) * blockBytes;
    return end > start
      ? { offsetBytes: start, lengthBytes: end - start }
      : { offsetBytes: range.offsetBytes, lengthBytes: 0 };
  }

  #numbersOf(blocks: ByteRange): { first: number; count: number } {
    const { blockBytes } = this.#layout;
    return {
      first: blocks.offsetBytes / blockBytes,
      count: Math.ceil(blocks.lengthBytes / blockBytes),
    };
  }

  /** Where in the file a byte of the device is. */
  #placeOf(offsetBytes: number): number {
    return this.#layout.dataOffsetBytes + offsetBytes;
  }
}

/** What of the content of a range belongs to a part of it. */
function partOf(content: Uint8Array | 'zeros', range: ByteRange, part: ByteRange): Uint8Array | 'zeros' {
  if (content === 'zeros') return content;
  const start = part.offsetBytes - range.offsetBytes;
  return content.subarray(start, start + part.lengthBytes);
}

async function openOrCreate(
  path: string,
  sizeBytes: number,
  core: Core,
): Promise<{ file: FileDevice; isNew: boolean }> {
  try {
    return { file: await FileDevice.open(path, { core }), isNew: false };
  } catch (error) {
    if (!isCofferdamError(error, 'DEVICE_NOT_FOUND')) throw error;
    return { file: await FileDevice.open(path, { core, create: { sizeBytes } }), isNew: true };
  }
}

/** @param file of zeros, which is a map that leaves everything to the base. */
async function initialise(file: BlockDevice, { base, baseName }: OverlayOptions, core: Core): Promise<void> {
  await file.write(0, encodeHeader(newLayout(base.sizeBytes), baseName, core));
  await file.flush();
}

/** Whether there is neither a header nor a map nor data. */
async function isBlank(
  file: BlockDevice,
  { fileBytes, dataOffsetBytes }: OverlayLayout,
  core: Core,
): Promise<boolean> {
  if (file.sizeBytes !== fileBytes) return false;
  for (const { offsetBytes, lengthBytes, kind } of await file.allocation(0, fileBytes)) {
    if (kind === 'zero') continue;
    if (offsetBytes + lengthBytes > dataOffsetBytes) return false;
    const bytes = new Uint8Array(lengthBytes);
    await file.read(offsetBytes, bytes);
    if (!core.isZero(bytes)) return false;
  }
  return true;
}

/** @throws CofferdamError NOT_AN_OVERLAY unless it is one of this base. */
async function readLayout(
  file: BlockDevice,
  base: BlockDevice,
  baseName: string,
  core: Core,
): Promise<OverlayLayout> {
  const bytes = new Uint8Array(headerLength(file.sizeBytes));
  await file.read(0, bytes);
  const header = decodeHeader(bytes, core);
  if (typeof header === 'string') throw notAnOverlay(file, `is not an overlay: ${header}`);
  const { layout, base: found } = header;
  if (found !== baseName || layout.sizeBytes !== base.sizeBytes) {
    throw notAnOverlay(
      file,
      `is an overlay over ${layout.sizeBytes} bytes of ${found}, not over ${base.sizeBytes} bytes of ${baseName}`,
    );
  }
  if (file.sizeBytes < layout.fileBytes) {
    throw notAnOverlay(file, `was cut off: it ends at ${file.sizeBytes} instead of ${layout.fileBytes}`);
  }
  return layout;
}

function notAnOverlay({ name }: BlockDevice, what: string): CofferdamError {
  return new CofferdamError('NOT_AN_OVERLAY', `${name} ${what}; give another file, or none to start anew`, {
    device: name,
  });
}
