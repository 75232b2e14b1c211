import { BlockState, hashLengthBytes, type Core } from '../../core/core.js';
import { invariant } from '../../runtime/errors.js';
import type { BlockMap, LeafBlocks, LocatedNode, NodePlace } from './block-map.js';
import {
  FANOUT,
  LEAF_BLOCKS,
  blockCount,
  blockLength,
  entryCount,
  leafCount,
  rootLevel,
  type MapShape,
} from './map-shape.js';
import { EntryKind, Node } from './node.js';
import type { NodePointer } from './layout.js';

/** What a block-map writer needs of the generation that it is part of. */
export interface MapTarget {
  readonly core: Core;
  /** Puts a node into the image and says where. */
  append(node: Uint8Array): Promise<number>;
  /** Whether the range lies in space that this generation has taken. */
  owns(offset: number, length: number): boolean;
}

/** An inner node some of whose entries are not known yet. */
interface PendingNode {
  node: Node;
  known: Uint8Array;
  unknownCount: number;
}

/**
 * Writes the block map of one device.
 *
 * Invariants:
 * - A node is written once all its entries are known, so children always before their parents.
 * - Entries that were not put are taken from the base, leaf by leaf or when the map is sealed. Without a base there are
 *   none: a block is never zero because somebody forgot it.
 * - A node that comes out equal to the base's is not written: the base's is shared.
 * - A subtree of zeros is a zero entry, never a node.
 */
export class BlockMapWriter {
  readonly #target: MapTarget;
  readonly #shape: MapShape;
  readonly #base: BlockMap | undefined;
  readonly #rootLevel: number;
  /** Per level, by node index. Complete nodes leave, so copying in order keeps few of them. */
  readonly #pending: Map<number, PendingNode>[];
  #root: { place: NodePlace | undefined } | undefined;

  /** @param base where to take what is not put from; undefined for nowhere, which is not the same as a map of zeros. */
  constructor(target: MapTarget, shape: MapShape, base: BlockMap | undefined) {
    this.#target = target;
    this.#shape = shape;
    this.#base = base;
    this.#rootLevel = rootLevel(shape);
    this.#pending = Array.from({ length: this.#rootLevel + 1 }, () => new Map<number, PendingNode>());
  }

  /**
   * Says what is under leaf `leafIndex`: each leaf at most once, in any order, several at a time.
   *
   * @throws CofferdamError TARGET_FULL, TARGET_WRITE_FAILED, or what reading the base throws
   */
  async put(leafIndex: number, blocks: LeafBlocks): Promise<void> {
    invariant(leafIndex >= 0 && leafIndex < leafCount(this.#shape), `leaf ${leafIndex} is in the device`);
    const count = entryCount(this.#shape, 0, leafIndex);
    invariant(count === blocks.states.length, `leaf ${leafIndex} is put with all its blocks`);
    const leaf = Node.blank(this.#shape.algorithm, 0, count);
    const skipped: number[] = [];
    for (let i = 0; i < count; i++) {
      if (blocks.states[i] === BlockState.Skipped) skipped.push(i);
      else this.#setBlock(leaf, leafIndex * LEAF_BLOCKS + i, i, blocks);
    }
    const base = skipped.length > 0 ? await this.#fill(leaf, skipped, 0, leafIndex) : undefined;
    await this.#add(0, leafIndex, await this.#write(leaf, base));
  }

  /** As {@link put}, for a leaf all of whose blocks are zero. */
  async putZeros(leafIndex: number): Promise<void> {
    invariant(leafIndex >= 0 && leafIndex < leafCount(this.#shape), `leaf ${leafIndex} is in the device`);
    await this.#add(0, leafIndex, undefined);
  }

  /**
   * Writes what is left of the map and says where its root is; null when the whole device is zeros. All puts must
   * have ended.
   *
   * @throws CofferdamError as {@link put}
   */
  async seal(): Promise<NodePointer | null> {
    for (const [level, nodes] of this.#pending.entries()) {
      for (const [index, { node, known, unknownCount }] of nodes) {
        const unknown = Array.from(known.keys()).filter((entry) => known[entry] === 0);
        invariant(unknown.length === unknownCount, 'a node is pending as long as entries are unknown');
        const base = await this.#fill(node, unknown, level, index);
        await this.#add(level, index, await this.#write(node, base));
      }
      nodes.clear();
    }
    if (!this.#root && blockCount(this.#shape) > 0) {
      this.#root = { place: (await this.#baseNode(this.#rootLevel, 0))?.place };
    }
    if (!this.#root?.place) return null;
    const { offset, length, hash } = this.#root.place;
    return { offset, length, level: this.#rootLevel, hash: Buffer.from(hash).toString('hex') };
  }

  #setBlock(leaf: Node, block: number, entry: number, blocks: LeafBlocks): void {
    const state = blocks.states[entry];
    if (state === BlockState.Zero) return;
    invariant(
      state === BlockState.Stored,
      `block ${block} is put as zero, stored or skipped, not as ${state}`,
    );
    const offset = blocks.offsets[entry] ?? -1;
    const length = blockLength(this.#shape, block);
    invariant(
      this.#target.owns(offset, length),
      `block ${block} is put at ${offset}, in space of this generation`,
    );
    const hashBytes = hashLengthBytes[this.#shape.algorithm];
    leaf.set(
      entry,
      EntryKind.Raw,
      offset,
      length,
      blocks.hashes.subarray(entry * hashBytes, (entry + 1) * hashBytes),
    );
  }

  /** Takes the given entries of a node from the base's node at the same place, and returns that. */
  async #fill(node: Node, entries: number[], level: number, index: number): Promise<LocatedNode | undefined> {
    const base = await this.#baseNode(level, index);
    if (base) for (const entry of entries) node.entry(entry).set(base.node.entry(entry));
    return base;
  }

  #baseNode(level: number, index: number): Promise<LocatedNode | undefined> {
    invariant(this.#base !== undefined, 'a full generation puts every block of every device');
    return this.#base.node(level, index);
  }

  /** @returns where the node is; undefined when all under it is zeros. */
  async #write(node: Node, base: LocatedNode | undefined): Promise<NodePlace | undefined> {
    if (node.isZero()) return undefined;
    if (base && Buffer.compare(node.bytes, base.node.bytes) === 0) return base.place;
    const hash = this.#target.core.hash(node.algorithm, node.bytes);
    return { offset: await this.#target.append(node.bytes), length: node.bytes.length, hash };
  }

  /** Enters node `index` of a level into its parent, and writes the parent if that makes it complete, and so on up. */
  async #add(level: number, index: number, place: NodePlace | undefined): Promise<void> {
    if (level === this.#rootLevel) {
      invariant(this.#root === undefined, 'a leaf is put once');
      this.#root = { place };
      return;
    }
    const parentIndex = Math.floor(index / FANOUT);
    const parent = this.#parent(level + 1, parentIndex);
    const entry = index % FANOUT;
    invariant(parent.known[entry] === 0, 'a leaf is put once');
    parent.known[entry] = 1;
    if (place) parent.node.set(entry, EntryKind.Node, place.offset, place.length, place.hash);
    if (--parent.unknownCount > 0) return;
    this.#pending[level + 1]?.delete(parentIndex);
    await this.#add(level + 1, parentIndex, await this.#write(parent.node, undefined));
  }

  #parent(level: number, index: number): PendingNode {
    const nodes = this.#pending[level];
    invariant(nodes !== undefined, 'no level is above the root');
    const found = nodes.get(index);
    if (found) return found;
    const count = entryCount(this.#shape, level, index);
    const node = Node.blank(this.#shape.algorithm, level, count);
    const pending = { node, known: new Uint8Array(count), unknownCount: count };
    nodes.set(index, pending);
    return pending;
  }
}
