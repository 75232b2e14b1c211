import { BlockFault, hashLengthBytes, type HashAlgorithm } from '../../core/core.js';
import type { LeafBlocks } from './block-map.js';
import type { BackupImage } from './image.js';
import { isDamage } from './reader.js';

/**
 * Reads block `entry` of a leaf and checks it against its hash.
 *
 * @param into as long as the block; not to be used unless the answer is `None`.
 * @returns a {@link BlockFault}.
 */
export async function readStoredBlock(
  image: BackupImage,
  algorithm: HashAlgorithm,
  leaf: LeafBlocks,
  entry: number,
  into: Uint8Array,
): Promise<number> {
  try {
    await image.store.read(leaf.offsets[entry] ?? 0, into);
  } catch (error) {
    if (!isDamage(error)) throw error;
    return BlockFault.Unreadable;
  }
  const hashBytes = hashLengthBytes[algorithm];
  const expected = leaf.hashes.subarray(entry * hashBytes, (entry + 1) * hashBytes);
  const found = image.core.hash(algorithm, into);
  return Buffer.compare(found, expected) === 0 ? BlockFault.None : BlockFault.Mismatch;
}

/** What a {@link BlockFault} means, for people. */
export function faultReason(fault: number): string {
  return fault === BlockFault.Mismatch
    ? 'the stored bytes do not match their hash'
    : 'the stored bytes cannot be read';
}
