import { BlockFault, BlockState } from '../../core/core.js';
import { appendExtent, type Extent } from '../../devices/block-device.js';
import { ReadOnlyDevice, type ReadOnlyContents } from '../../devices/read-only.js';
import { CofferdamError } from '../../runtime/errors.js';
import type { BlockMap, LeafBlocks } from './block-map.js';
import type { BackupImage } from './image.js';
import { LEAF_BLOCKS, byteRange } from './map-shape.js';
import type { GenerationRecord } from './record.js';
import { faultReason, readStoredBlock } from './stored-block.js';

const CACHED_LEAVES = 16;
const CACHED_BLOCKS = 2;

/**
 * A device as it was in a generation, read-only. Every block is checked against its hash on the way: a read gives the
 * right bytes or fails with BLOCK_CORRUPT and the range, or with what reading the block map throws. Closing it does not
 * close the image.
 */
export class GenerationDevice extends ReadOnlyDevice {
  /** @throws CofferdamError UNKNOWN_DEVICE */
  constructor(image: BackupImage, record: GenerationRecord, deviceId: string) {
    const name = `${deviceId} of generation ${record.generation} in ${image.store.name}`;
    const map = image.blockMap(record, deviceId);
    // A block is read and checked whole, so that is the unit to ask for.
    const { sizeBytes, blockSizeBytes } = map.shape;
    super(name, sizeBytes, blockSizeBytes, new GenerationContents(name, image, map));
  }

  /**
   * Opens one device of a generation.
   *
   * @throws CofferdamError UNKNOWN_GENERATION, UNKNOWN_DEVICE, IMAGE_CORRUPT, IMAGE_TRUNCATED
   */
  static async open(
    image: BackupImage,
    generation: number | 'latest',
    id: string,
  ): Promise<GenerationDevice> {
    return new GenerationDevice(image, await image.record(generation), id);
  }
}

class GenerationContents implements ReadOnlyContents {
  readonly #name: string;
  readonly #image: BackupImage;
  readonly #map: BlockMap;
  readonly #leaves = new Recent<LeafBlocks | undefined>(CACHED_LEAVES);
  readonly #blocks = new Recent<Uint8Array>(CACHED_BLOCKS);

  constructor(name: string, image: BackupImage, map: BlockMap) {
    this.#name = name;
    this.#image = image;
    this.#map = map;
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    const { blockSizeBytes } = this.#map.shape;
    let done = 0;
    while (done < into.length) {
      const block = Math.floor((offsetBytes + done) / blockSizeBytes);
      const within = (offsetBytes + done) % blockSizeBytes;
      const { lengthBytes } = byteRange(this.#map.shape, block, 1);
      const part = into.subarray(done, Math.min(into.length, done + lengthBytes - within));
      if (part.length === lengthBytes) await this.#readBlock(block, part);
      else part.set((await this.#cachedBlock(block, lengthBytes)).subarray(within, within + part.length));
      done += part.length;
    }
  }

  /** What cannot be read counts as data, so that whoever asks goes on to read it and learns why not. */
  async allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    const { shape } = this.#map;
    const extents: Extent[] = [];
    if (lengthBytes === 0) return extents;
    const end = offsetBytes + lengthBytes;
    const add = (firstBlock: number, blocks: number, kind: Extent['kind']): void => {
      const range = byteRange(shape, firstBlock, blocks);
      const from = Math.max(range.offsetBytes, offsetBytes);
      const to = Math.min(range.offsetBytes + range.lengthBytes, end);
      if (from < to) appendExtent(extents, { offsetBytes: from, lengthBytes: to - from, kind });
    };
    const first = Math.floor(offsetBytes / shape.blockSizeBytes);
    const last = Math.floor((end - 1) / shape.blockSizeBytes);
    for await (const step of this.#map.walk(first, last + 1 - first)) {
      if (step.kind !== 'leaf') add(step.firstBlock, step.blockCount, step.kind === 'zero' ? 'zero' : 'data');
      else {
        step.blocks.states.forEach((state, i) => {
          add(step.firstBlock + i, 1, state === BlockState.Zero ? 'zero' : 'data');
        });
      }
    }
    return extents;
  }

  async #cachedBlock(block: number, lengthBytes: number): Promise<Uint8Array> {
    return this.#blocks.get(block, async () => {
      const bytes = new Uint8Array(lengthBytes);
      await this.#readBlock(block, bytes);
      return bytes;
    });
  }

  async #readBlock(block: number, into: Uint8Array): Promise<void> {
    const index = Math.floor(block / LEAF_BLOCKS);
    const leaf = await this.#leaves.get(index, () => this.#map.leaf(index));
    const entry = block % LEAF_BLOCKS;
    if (!leaf || leaf.states[entry] === BlockState.Zero) {
      into.fill(0);
      return;
    }
    const fault = await readStoredBlock(this.#image, this.#map.shape.algorithm, leaf, entry, into);
    if (fault === BlockFault.None) return;
    const { offsetBytes, lengthBytes } = byteRange(this.#map.shape, block, 1);
    throw new CofferdamError(
      'BLOCK_CORRUPT',
      `${this.#name}: ${lengthBytes} bytes at ${offsetBytes} are lost: ${faultReason(fault)}`,
      { device: this.#map.shape.deviceId, offsetBytes, lengthBytes },
    );
  }
}

/** The values used last, by number. */
class Recent<Value> {
  readonly #values = new Map<number, Value>();

  constructor(readonly capacity: number) {}

  async get(key: number, load: () => Promise<Value>): Promise<Value> {
    const value = this.#values.get(key) ?? (await load());
    this.#values.delete(key);
    this.#values.set(key, value);
    for (const oldest of this.#values.keys()) {
      if (this.#values.size <= this.capacity) break;
      this.#values.delete(oldest);
    }
    return value;
  }
}
