import { hashLengthBytes, type HashAlgorithm } from '../../core/core.js';
import type { ByteRange } from '../../devices/byte-range.js';
import type { NodePointer } from './layout.js';

/** Entries per node of a block map. */
export const FANOUT = 256;

/** Blocks that a leaf of the block map covers. */
export const LEAF_BLOCKS = FANOUT;

/** Everything that decides the form of a device's block map. */
export interface MapShape {
  deviceId: string;
  sizeBytes: number;
  blockSizeBytes: number;
  algorithm: HashAlgorithm;
}

export function blockCount(shape: MapShape): number {
  return Math.ceil(shape.sizeBytes / shape.blockSizeBytes);
}

export function leafCount(shape: MapShape): number {
  return Math.ceil(blockCount(shape) / LEAF_BLOCKS);
}

/** Blocks that one entry of a node of this level covers; a node of this level covers 256 times as many. */
export function entryBlocks(level: number): number {
  return FANOUT ** level;
}

/** Level of the root: the lowest whose one node covers the whole device. */
export function rootLevel(shape: MapShape): number {
  let level = 0;
  while (entryBlocks(level + 1) < blockCount(shape)) level++;
  return level;
}

/** Entries in use in node `index` (counted from 0) of a level: 256, or fewer at the end of the device. */
export function entryCount(shape: MapShape, level: number, index: number): number {
  const entries = Math.ceil(blockCount(shape) / entryBlocks(level));
  return Math.min(FANOUT, entries - index * FANOUT);
}

/** Length of a block in bytes; the last one of a device may be shorter. */
export function blockLength(shape: MapShape, block: number): number {
  return Math.min(shape.blockSizeBytes, shape.sizeBytes - block * shape.blockSizeBytes);
}

/** The bytes of the device that a range of blocks stands for. */
export function byteRange(shape: MapShape, firstBlock: number, blocks: number): ByteRange {
  const offsetBytes = firstBlock * shape.blockSizeBytes;
  const endBytes = Math.min((firstBlock + blocks) * shape.blockSizeBytes, shape.sizeBytes);
  return { offsetBytes, lengthBytes: endBytes - offsetBytes };
}

/** Length of every node in bytes. */
export function nodeLength(algorithm: HashAlgorithm): number {
  return NODE_HEADER_BYTES + FANOUT * entryLength(algorithm);
}

/** Length of an entry of a node in bytes. */
export function entryLength(algorithm: HashAlgorithm): number {
  return ENTRY_FIXED_BYTES + hashLengthBytes[algorithm];
}

export const NODE_HEADER_BYTES = 16;
/** An entry without its hash. */
export const ENTRY_FIXED_BYTES = 16;

/** What is wrong with a pointer to the root of a map of this shape, or undefined. */
export function rootFault(shape: MapShape, root: NodePointer | null): string | undefined {
  if (root === null) return undefined;
  if (blockCount(shape) === 0) return 'a device of no bytes has a block map';
  if (root.level !== rootLevel(shape)) return `its root is of level ${root.level}, not ${rootLevel(shape)}`;
  if (root.length !== nodeLength(shape.algorithm)) return `its root is ${root.length} bytes long`;
  if (root.hash.length !== 2 * hashLengthBytes[shape.algorithm])
    return 'the hash of its root has the wrong length';
  return undefined;
}
