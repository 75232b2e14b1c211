import type { Core } from '../../core/core.js';
import { CofferdamError, invariant } from '../../runtime/errors.js';
import { roundUp } from '../../runtime/sizes.js';
import { BlockMap } from './block-map.js';
import { BlockMapWriter } from './block-map-writer.js';
import { catalogEntry, type Catalog } from './catalog.js';
import type { ImageHead } from './head.js';
import {
  ALLOCATION_BYTES,
  MAX_JSON_BYTES,
  SLOT_OFFSETS,
  type JsonPointer,
  type NodePointer,
} from './layout.js';
import { rootFault, type MapShape } from './map-shape.js';
import { NodeSink } from './node-sink.js';
import { ImageReader } from './reader.js';
import { generationRecordSchema, recordFault, type GenerationRecord } from './record.js';
import { FreeSpace } from './space.js';
import type { ImageStore } from './store.js';
import { encodeSuperblock, slotOf, type Superblock } from './superblock.js';

/** How the writing of a generation ended. */
export type WriterOutcome =
  | { kind: 'committed'; superblock: Superblock; catalog: Catalog }
  | { kind: 'abandoned' }
  /** A superblock was sent on its way and nobody can say whether it arrived. */
  | { kind: 'unknown' };

/**
 * Writes one generation into an image.
 *
 * Invariants:
 * - Only free space is written: what lies past everything that any superblock refers to. So nothing that a committed
 *   generation can reach is ever overwritten, and a crash leaves at most unreachable space behind.
 * - The one exception is the older superblock slot, and it is written only when all it is going to refer to is durable.
 *   The newer slot stays as it is, so at every instant one slot is whole.
 * - Space is given back only while no superblock can refer to it: not once a superblock was sent on its way, whether or
 *   not the write of it seemed to fail.
 */
export class GenerationWriter {
  readonly #store: ImageStore;
  readonly #core: Core;
  readonly #head: ImageHead;
  readonly #space: FreeSpace;
  readonly #nodes: NodeSink;
  readonly #onEnd: (outcome: WriterOutcome) => void;
  #state: 'writing' | 'deciding' | 'ended' = 'writing';

  /** For {@link BackupImage.beginGeneration}. */
  constructor(
    store: ImageStore,
    core: Core,
    head: ImageHead,
    freeFromBytes: number,
    onEnd: (outcome: WriterOutcome) => void,
  ) {
    this.#store = store;
    this.#core = core;
    this.#head = head;
    this.#space = new FreeSpace(store, freeFromBytes);
    this.#nodes = new NodeSink(this.#space);
    this.#onEnd = onEnd;
  }

  /** What the image is, for messages. */
  get imageName(): string {
    return this.#store.name;
  }

  /** One word: the next free byte of the image. Worker threads take whole multiples of 4096 bytes from it. */
  get cursor(): BigInt64Array<SharedArrayBuffer> {
    return this.#space.cursor;
  }

  /** The image may not grow beyond this offset; Infinity where nothing limits it. */
  get capacityBytes(): number {
    return this.#store.capacityBytes;
  }

  /** Where worker threads may write block data; without it, block data goes through `appendData`. */
  get sinkFd(): number | undefined {
    return this.#store.fd;
  }

  /**
   * Writes block data.
   *
   * @returns its offset in the image.
   * @throws CofferdamError TARGET_FULL, TARGET_WRITE_FAILED
   */
  async appendData(bytes: Uint8Array): Promise<number> {
    this.#assertWriting();
    const { offset } = this.#space.take(bytes.length);
    await this.#store.write(offset, bytes);
    return offset;
  }

  /**
   * Starts the block map of one device.
   *
   * @param base Absent: every leaf must be put. Else the root of a map of the same shape, in an earlier generation or
   * sealed in this one: leaves that are not put and blocks that are `Skipped` are as there. Null is a map of zeros.
   */
  blockMapWriter(shape: MapShape, base?: NodePointer | null): BlockMapWriter {
    this.#assertWriting();
    const target = {
      core: this.#core,
      append: (node: Uint8Array) => this.#nodes.append(node),
      owns: (offset: number, length: number) => this.#owns(offset, length),
    };
    return new BlockMapWriter(target, shape, base === undefined ? undefined : this.#baseMap(shape, base));
  }

  /**
   * Makes the generation part of the image. When the promise resolves it is there for good; when it rejects it is not
   * there, except that after a failure of the last two steps nobody knows. No job that writes to the image may be
   * running.
   *
   * @returns the number of the generation.
   * @throws CofferdamError TARGET_FULL, TARGET_WRITE_FAILED, BAD_ARGUMENT
   */
  async commit(contents: Omit<GenerationRecord, 'generation'>): Promise<number> {
    this.#assertWriting();
    const { superblock: previous, catalog } = this.#head;
    const record: GenerationRecord = { generation: catalog.lastGeneration + 1, ...contents };
    this.#checkRecord(record);

    // 1. Block data: written by the copier, directly or by `appendData`, before it called us.
    // 2. Block-map nodes. Most are written; these are the last.
    await this.#nodes.finish();
    // 3. The generation record, which points to the roots.
    const recordPointer = await this.#appendJson(record, 'the generation record');
    // 4. The catalog, which points to the records. It is the last extent, so an image never ends short of its `end`.
    const entry = catalogEntry(record, recordPointer, recordPointer.blake3);
    const nextCatalog: Catalog = {
      lastGeneration: record.generation,
      generations: [...catalog.generations, entry],
    };
    const catalogPointer = await this.#appendJson(nextCatalog, 'the catalog');
    const superblock: Superblock = {
      uuid: previous.uuid,
      sequence: previous.sequence + 1,
      endBytes: this.#space.endBytes,
      catalog: catalogPointer,
    };
    // 5. Sync: a superblock must never be durable before what it refers to.
    await this.#store.sync();
    // 6. The older superblock slot. From here on a crash may leave either generation as the newest.
    this.#state = 'deciding';
    await this.#store.write(
      SLOT_OFFSETS[slotOf(superblock.sequence)],
      encodeSuperblock(superblock, this.#core),
    );
    // 7. Sync: only now may anyone be told that the generation exists.
    await this.#store.sync();

    this.#end({ kind: 'committed', superblock, catalog: nextCatalog });
    return record.generation;
  }

  /**
   * Gives up the generation, and the space that it took as far as the store can. The image may be used for another
   * one. Does nothing once the generation has ended. No job that writes to the image may be running.
   */
  async abandon(): Promise<void> {
    if (this.#state === 'ended') return;
    if (this.#state === 'deciding') return this.#end({ kind: 'unknown' });
    // Nodes may still be on their way; whether they arrive does not matter, but they must not arrive later.
    await this.#nodes.flush().catch(() => undefined);
    // A failure leaves unreachable space, which the next generation uses.
    await this.#store.truncate?.(this.#space.startBytes).catch(() => undefined);
    this.#end({ kind: 'abandoned' });
  }

  #end(outcome: WriterOutcome): void {
    this.#state = 'ended';
    this.#onEnd(outcome);
  }

  #assertWriting(): void {
    invariant(this.#state === 'writing', 'a generation that was committed or abandoned is not written to');
  }

  #owns(offset: number, length: number): boolean {
    return offset >= this.#space.startBytes && offset <= this.#space.endBytes - length;
  }

  #baseMap(shape: MapShape, base: NodePointer | null): BlockMap {
    const fault = rootFault(shape, base);
    invariant(fault === undefined, `the base of device ${shape.deviceId} has another shape: ${fault}`);
    // The base may have been sealed in this very generation, so reads must see the nodes that are still gathered.
    const nodes = this.#nodes;
    const store: Pick<ImageStore, 'name' | 'read'> = {
      name: this.#store.name,
      read: async (offset, into) => {
        await nodes.flush();
        await this.#store.read(offset, into);
      },
    };
    return new BlockMap(new ImageReader(store, this.#core, this.#space.endBytes), shape, base);
  }

  /** Refuses to write what a reader would refuse to read. */
  #checkRecord(record: GenerationRecord): void {
    const parsed = generationRecordSchema.safeParse(record);
    const issue = parsed.success ? undefined : parsed.error.issues[0];
    const fault = issue ? `${issue.path.join('.')}: ${issue.message}` : recordFault(record);
    if (fault !== undefined) {
      throw new CofferdamError('BAD_ARGUMENT', `the generation cannot be committed: ${fault}`);
    }
  }

  async #appendJson(value: unknown, what: string): Promise<JsonPointer> {
    const text = new TextEncoder().encode(JSON.stringify(value));
    if (text.length > MAX_JSON_BYTES) {
      throw new CofferdamError(
        'TARGET_FULL',
        `${this.#store.name}: ${what} is longer than ${MAX_JSON_BYTES} bytes; start a new image`,
        { device: this.#store.name },
      );
    }
    const bytes = new Uint8Array(roundUp(text.length, ALLOCATION_BYTES));
    bytes.set(text);
    const offset = await this.appendData(bytes);
    const blake3 = Buffer.from(this.#core.hash('blake3', text)).toString('hex');
    return { offset, length: text.length, blake3 };
  }
}
