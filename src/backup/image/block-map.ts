import type { HashAlgorithm } from '../../core/core.js';

/** Everything that decides the form of a device's block map. */
export interface MapShape {
  deviceId: string;
  sizeBytes: number;
  blockSizeBytes: number;
  algorithm: HashAlgorithm;
}

/** The blocks under one leaf: 256, or fewer at the end of the device. Arrays have one entry per block. */
export interface LeafBlocks {
  /** A `BlockState` per block; `Zero` or `Stored`, and `Skipped` (as in the base) when writing an incremental. */
  states: Uint8Array;
  /** Where the block is in the image, in bytes; only for `Stored`. */
  offsets: Float64Array;
  /** The hashes one after the other; only for `Stored`. */
  hashes: Uint8Array;
}
