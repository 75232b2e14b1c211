import { BlockState, hashLengthBytes, type HashAlgorithm } from '../../core/core.js';
import { CofferdamError, invariant } from '../../runtime/errors.js';
import { DATA_START } from './layout.js';
import { EntryKind, Node } from './node.js';
import { isDamage, type ImageReader } from './reader.js';
import type { NodePointer } from './layout.js';
import {
  FANOUT,
  LEAF_BLOCKS,
  blockCount,
  blockLength,
  entryBlocks,
  entryCount,
  nodeLength,
  rootFault,
  type MapShape,
} from './map-shape.js';

/**
 * The blocks under one leaf: 256, or fewer at the end of the device. Arrays have one entry per block and, when read
 * from an image, lie in shared memory, so that jobs on worker threads can use them in place.
 */
export interface LeafBlocks {
  /** A `BlockState` per block; `Zero` or `Stored`, and `Skipped` (as in the base) when writing an incremental. */
  states: Uint8Array;
  /** Where the block is in the image, in bytes; only for `Stored`. */
  offsets: Float64Array;
  /** The hashes one after the other; only for `Stored`. */
  hashes: Uint8Array;
}

/** Some blocks of a device, in order: all zeros, the blocks of a leaf, or those under a node that cannot be read. */
export type WalkStep = { firstBlock: number; blockCount: number } & (
  | { kind: 'zero' }
  | { kind: 'leaf'; nodeOffset: number; blocks: LeafBlocks }
  | { kind: 'damage'; error: CofferdamError }
);

/** Where a node is and what its bytes must hash to. */
export interface NodePlace {
  offset: number;
  length: number;
  hash: Uint8Array;
}

export interface LocatedNode {
  node: Node;
  place: NodePlace;
}

/** What is known of a node before it is read: an entry of its parent, or the record. */
interface Reference extends NodePlace {
  level: number;
  /** Which node of its level, counted from 0. */
  index: number;
}

/**
 * Reads the block map of one device. Each node is checked against the hash that its parent keeps, then every field of
 * it, before anything in it is used.
 *
 * A node occurs at most once in one map. So a walk that reads more nodes than the image has room for is in a forged map,
 * which could otherwise keep a reader busy for ever.
 */
export class BlockMap {
  readonly #reader: ImageReader;
  readonly #root: Reference | undefined;
  readonly #recent: { node: Node; reference: Reference }[] = [];

  constructor(
    reader: ImageReader,
    readonly shape: MapShape,
    root: NodePointer | null,
  ) {
    invariant(rootFault(shape, root) === undefined, 'a block map is opened at a root that was checked');
    this.#reader = reader;
    this.#root = root === null ? undefined : { ...root, index: 0, hash: Buffer.from(root.hash, 'hex') };
  }

  /**
   * The blocks under leaf `index`; undefined when all are zeros.
   *
   * @throws CofferdamError IMAGE_CORRUPT, IMAGE_TRUNCATED, IMAGE_VERSION, DEVICE_IO
   */
  async leaf(index: number): Promise<LeafBlocks | undefined> {
    const leaf = await this.node(0, index);
    return leaf && this.#decodeLeaf(leaf.node, index * LEAF_BLOCKS);
  }

  /**
   * Node `index` of a level; undefined when all under it is zeros.
   *
   * @throws CofferdamError as {@link leaf}
   */
  async node(level: number, index: number): Promise<LocatedNode | undefined> {
    let reference = this.#root;
    while (reference) {
      const node: Node = await this.#readRecent(reference);
      if (reference.level === level) return { node, place: reference };
      // The child to go on with is the one that node `index` of `level` is under.
      const child = Math.floor(index / FANOUT ** (reference.level - 1 - level)) % FANOUT;
      reference = this.#child(node, reference, child);
    }
    return undefined;
  }

  /**
   * Steps through the given blocks in order, without gaps; the first and the last step may reach past them. It goes on
   * after a node that cannot be read.
   *
   * @throws CofferdamError IMAGE_CORRUPT if the map contains a node more than once.
   */
  async *walk(firstBlock = 0, blocks = blockCount(this.shape)): AsyncGenerator<WalkStep> {
    if (blocks === 0) return;
    const room = Math.floor((this.#reader.endBytes - DATA_START) / nodeLength(this.shape.algorithm));
    if (this.#root) yield* this.#walk(this.#root, firstBlock, firstBlock + blocks, { nodes: room });
    else yield { kind: 'zero', firstBlock, blockCount: blocks };
  }

  async *#walk(
    reference: Reference,
    from: number,
    to: number,
    left: { nodes: number },
  ): AsyncGenerator<WalkStep, void, undefined> {
    if (left.nodes-- === 0) {
      throw this.#reader.error('IMAGE_CORRUPT', `${this.#name} contains a node more than once`, reference);
    }
    const { firstBlock, blockCount: blocks } = this.#span(reference.level + 1, reference.index);
    const node = await this.#read(reference).catch((error: unknown) => {
      if (isDamage(error)) return error;
      throw error;
    });
    if (node instanceof CofferdamError) {
      yield { kind: 'damage', firstBlock, blockCount: blocks, error: node };
    } else if (reference.level === 0) {
      const leaf = this.#decodeLeaf(node, firstBlock);
      yield { kind: 'leaf', firstBlock, blockCount: blocks, nodeOffset: reference.offset, blocks: leaf };
    } else {
      const perEntry = entryBlocks(reference.level);
      const first = Math.max(0, Math.floor((from - firstBlock) / perEntry));
      const last = Math.min(Math.ceil(blocks / perEntry), Math.ceil((to - firstBlock) / perEntry));
      for (let i = first; i < last; i++) {
        const child = this.#child(node, reference, i);
        if (child) yield* this.#walk(child, from, to, left);
        else yield { kind: 'zero', ...this.#span(reference.level, reference.index * FANOUT + i) };
      }
    }
  }

  /** The blocks of the device that entry `index` of a level, counted over all its nodes, covers. */
  #span(level: number, index: number): { firstBlock: number; blockCount: number } {
    const firstBlock = index * entryBlocks(level);
    return { firstBlock, blockCount: Math.min(entryBlocks(level), blockCount(this.shape) - firstBlock) };
  }

  /** The child in an entry of a node that was checked; undefined when all under it is zeros. */
  #child(node: Node, parent: Reference, entry: number): Reference | undefined {
    if (node.kind(entry) === EntryKind.Zero) return undefined;
    return {
      offset: node.offset(entry),
      length: node.length(entry),
      level: parent.level - 1,
      index: parent.index * FANOUT + entry,
      hash: node.hash(entry),
    };
  }

  /** As {@link #read}, but the last inner node of each level is kept for the next time. */
  async #readRecent(reference: Reference): Promise<Node> {
    const recent = this.#recent[reference.level];
    if (recent && recent.reference.index === reference.index) return recent.node;
    const node = await this.#read(reference);
    if (reference.level > 0) this.#recent[reference.level] = { node, reference };
    return node;
  }

  async #read(reference: Reference): Promise<Node> {
    const { offset, length, level, index, hash } = reference;
    const { algorithm } = this.shape;
    const what = `${this.#name}, node ${index} of level ${level},`;
    const node = Node.over(await this.#reader.read(offset, length, algorithm, hash, what), algorithm);
    const count = entryCount(this.shape, level, index);
    const headerFault = node.headerFault(level, count);
    if (headerFault)
      throw this.#reader.error('IMAGE_CORRUPT', `${what} makes no sense: ${headerFault}`, reference);
    for (let i = 0; i < FANOUT; i++) this.#checkEntry(node, i, i < count, reference, what);
    return node;
  }

  #checkEntry(node: Node, entry: number, inUse: boolean, reference: Reference, what: string): void {
    const kind = node.kind(entry);
    if (kind === EntryKind.Zero) {
      if (node.isBlankEntry(entry)) return;
      throw this.#reader.error(
        'IMAGE_CORRUPT',
        `${what} entry ${entry} is of kind zero but is not zero`,
        reference,
      );
    }
    if (!inUse) {
      throw this.#reader.error(
        'IMAGE_CORRUPT',
        `${what} entry ${entry} is past the end of the device`,
        reference,
      );
    }
    if (kind > EntryKind.Raw || node.extras(entry) !== 0) {
      throw this.#reader.error(
        'IMAGE_VERSION',
        `${what} entry ${entry} is of a kind (${kind}) that this version does not read; use a newer cofferdam`,
        reference,
      );
    }
    const { level, index } = reference;
    const length = level > 0 ? nodeLength(node.algorithm) : blockLength(this.shape, index * FANOUT + entry);
    const isRightKind = kind === (level > 0 ? EntryKind.Node : EntryKind.Raw);
    if (!isRightKind || node.length(entry) !== length || !this.#reader.holds(node.offset(entry), length)) {
      throw this.#reader.error('IMAGE_CORRUPT', `${what} entry ${entry} makes no sense`, reference);
    }
  }

  #decodeLeaf(node: Node, firstBlock: number): LeafBlocks {
    const count = Math.min(LEAF_BLOCKS, blockCount(this.shape) - firstBlock);
    const blocks = newLeafBlocks(count, this.shape.algorithm);
    const hashBytes = hashLengthBytes[this.shape.algorithm];
    for (let i = 0; i < count; i++) {
      if (node.kind(i) === EntryKind.Zero) {
        blocks.states[i] = BlockState.Zero;
      } else {
        blocks.states[i] = BlockState.Stored;
        blocks.offsets[i] = node.offset(i);
        blocks.hashes.set(node.hash(i), i * hashBytes);
      }
    }
    return blocks;
  }

  get #name(): string {
    return `block map of device ${this.shape.deviceId}`;
  }
}

/** Arrays in shared memory, so that jobs on worker threads use them in place. */
export function newLeafBlocks(count: number, algorithm: HashAlgorithm): LeafBlocks {
  return {
    states: new Uint8Array(new SharedArrayBuffer(count)),
    offsets: new Float64Array(new SharedArrayBuffer(count * 8)),
    hashes: new Uint8Array(new SharedArrayBuffer(count * hashLengthBytes[algorithm])),
  };
}
