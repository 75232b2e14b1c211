import { BlockFault, BlockState } from '../../core/core.js';
import {
  appendExtent,
  type BlockDevice,
  type Capabilities,
  type Extent,
} from '../../devices/block-device.js';
import { Lifetime } from '../../devices/lifetime.js';
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
 * right bytes or fails. Closing it does not close the image.
 */
export class GenerationDevice implements BlockDevice {
  readonly name: string;
  readonly sizeBytes: number;
  readonly capabilities: Capabilities;
  /** Blocks lie anywhere in the image, and must be checked. */
  readonly nativeSource = undefined;
  readonly #image: BackupImage;
  readonly #map: BlockMap;
  readonly #leaves = new Recent<LeafBlocks | undefined>(CACHED_LEAVES);
  readonly #blocks = new Recent<Uint8Array>(CACHED_BLOCKS);
  readonly #lifetime = new Lifetime(this);

  /** @throws CofferdamError UNKNOWN_DEVICE */
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

  constructor(image: BackupImage, record: GenerationRecord, deviceId: string) {
    this.#image = image;
    this.#map = image.blockMap(record, deviceId);
    this.name = `${deviceId} of generation ${record.generation} in ${image.store.name}`;
    this.sizeBytes = this.#map.shape.sizeBytes;
    this.capabilities = {
      readOnly: true, // It is the past.
      fua: false, // Nothing is ever written.
      trim: false,
      fastZero: false,
      multiConnection: true, // All readers see the same bytes for ever.
      preferredBlockBytes: this.#map.shape.blockSizeBytes, // A block is read and checked whole.
    };
  }

  /** @throws CofferdamError BLOCK_CORRUPT with the range of the device, or what reading the block map throws */
  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    using _request = this.#lifetime.admit('read', offsetBytes, into.length);
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

  async write(offsetBytes: number, bytes: Uint8Array): Promise<void> {
    using _request = this.#lifetime.admit('write', offsetBytes, bytes.length);
  }

  async flush(): Promise<void> {
    using _request = this.#lifetime.admitFlush();
  }

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    using _request = this.#lifetime.admit('trim', offsetBytes, lengthBytes);
  }

  async writeZeroes(offsetBytes: number, lengthBytes: number): Promise<void> {
    using _request = this.#lifetime.admit('write zeroes', offsetBytes, lengthBytes);
  }

  /** What cannot be read counts as data, so that whoever asks goes on to read it and learns why not. */
  async allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    using _request = this.#lifetime.admit('allocation', offsetBytes, lengthBytes);
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

  close(): Promise<void> {
    return this.#lifetime.close(async () => {
      this.#leaves.clear();
      this.#blocks.clear();
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
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
      `${this.name}: ${lengthBytes} bytes at ${offsetBytes} are lost: ${faultReason(fault)}`,
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

  clear(): void {
    this.#values.clear();
  }
}
