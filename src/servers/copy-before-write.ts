import type { SharedBitmap } from '../core/bitmap.js';
import { KiB } from '../runtime/sizes.js';

/**
 * What is saved before a write is as little as this: a block is much more than what most writes change, and to read and
 * keep all of it for each would cost a busy device most of its speed. `native/src/pre_images.rs` has the same.
 */
export const UNIT_BYTES = 4 * KiB;

/** What copiers and copy-before-write tell each other about a snapshot; one bit per block. */
export interface SnapshotMarks {
  readonly blockSizeBytes: number;
  /** Blocks of which a unit is saved. */
  readonly preserved: SharedBitmap;
  /** Blocks whose pre-images nobody wants. */
  readonly copied: SharedBitmap;
}

/** Keeps the old contents of a device's units while a snapshot of it is live; `snapshot.ts` has the invariants. */
export interface CopyBeforeWrite extends AsyncDisposable {
  /**
   * Resolves when every unit of the range is saved or its block copied, or nothing is saved any more.
   *
   * @throws CofferdamError when a pre-image cannot be kept.
   */
  preserve(offsetBytes: number, lengthBytes: number): Promise<void>;
  /** Reads as of the cut. What it reads of blocks that are copied when it resolves means nothing. */
  read(offsetBytes: number, into: Uint8Array): Promise<void>;
  /** Gives up the pre-images of blocks that are marked as copied. */
  free(firstBlock: number, blockCount: number): void;
  /** From now on nothing is saved. */
  end(): void;
}
