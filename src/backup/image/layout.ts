import { KiB, MiB } from '../../runtime/sizes.js';

/*
 * Where things are in an image; docs/FORMAT.md says the same for readers of the format.
 *
 *        0  superblock slot 0        the two slots are far apart, so that one bad spot cannot take both
 *    65536  superblock slot 1
 *   131072  extents: block data, block-map nodes, generation records, catalogs
 *      end  free space
 */

export const SLOT_BYTES = 4 * KiB;
export const SLOT_OFFSETS = [0, 64 * KiB] as const;
export const DATA_START = 128 * KiB;

/** Space is taken in multiples of this. */
export const ALLOCATION_BYTES = 4 * KiB;

/** The longest catalog or record; bounds what a hostile image can make a reader allocate. */
export const MAX_JSON_BYTES = 64 * MiB;

/** Where a piece of JSON is, and the BLAKE3 of its bytes in hexadecimal. */
export interface JsonPointer {
  offset: number;
  length: number;
  blake3: string;
}

/** Where a block-map node is, and what its bytes must hash to. */
export interface NodePointer {
  offset: number;
  length: number;
  /** 0 for a leaf; a node of level n covers 256^(n+1) blocks. */
  level: number;
  /** In hexadecimal. */
  hash: string;
}
