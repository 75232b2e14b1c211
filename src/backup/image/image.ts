import type { Core } from '../../core/core.js';
import type { LeafBlocks, MapShape } from './block-map.js';
import type { Consistency, GenerationRecord, NodePointer, Strategy } from './record.js';
import type { ImageStore } from './store.js';

// The signatures that the copier is written against; the bodies follow.

export interface CatalogEntry {
  generation: number;
  finishedAt: string;
  strategy: Strategy;
  consistency: Consistency;
  deviceCount: number;
  sizeBytes: number;
  storedBytes: number;
  /** BLAKE3 of the record, in hexadecimal. */
  fingerprint: string;
}

export declare class BackupImage implements AsyncDisposable {
  static open(store: ImageStore, core: Core): Promise<BackupImage>;
  static initialise(store: ImageStore, core: Core, options?: { uuid?: string }): Promise<BackupImage>;
  readonly uuid: string;
  readonly warnings: readonly string[];
  readonly generations: readonly CatalogEntry[];
  record(generation: number | 'latest'): Promise<GenerationRecord>;
  beginGeneration(): GenerationWriter;
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

export declare class GenerationWriter {
  /** The next free byte of the image; workers take whole multiples of 4096 from it. */
  readonly cursor: BigInt64Array<SharedArrayBuffer>;
  readonly capacityBytes: number;
  readonly sinkFd: number | undefined;
  appendData(bytes: Uint8Array): Promise<number>;
  /**
   * @param base `undefined`: a full generation, every leaf must be put. Otherwise leaves that are not put and blocks
   * that are `Skipped` are as in the base, where null is an all-zero device.
   */
  blockMapWriter(shape: MapShape, base?: NodePointer | null): BlockMapWriter;
  /** No job that writes to the image may be running any more. */
  commit(record: Omit<GenerationRecord, 'generation'>): Promise<number>;
  /** No job that writes to the image may be running any more. */
  abandon(): Promise<void>;
}

export declare class BlockMapWriter {
  put(leafIndex: number, blocks: LeafBlocks): Promise<void>;
  seal(): Promise<NodePointer | null>;
}
