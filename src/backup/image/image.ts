import { randomUUID } from 'node:crypto';
import type { Core } from '../../core/core.js';
import { CofferdamError } from '../../runtime/errors.js';
import { BlockMap } from './block-map.js';
import { catalogEntry, type CatalogEntry } from './catalog.js';
import { GenerationWriter, type WriterOutcome } from './generation-writer.js';
import { readHead, type ImageHead } from './head.js';
import { DATA_START } from './layout.js';
import { ImageReader } from './reader.js';
import {
  generationRecordSchema,
  mapShape,
  recordFault,
  type DeviceRecord,
  type GenerationRecord,
} from './record.js';
import type { ImageStore } from './store.js';
import { encodeSuperblock } from './superblock.js';

export type { BlockMapWriter } from './block-map-writer.js';
export type { CatalogEntry } from './catalog.js';
export type { GenerationWriter } from './generation-writer.js';

/** A backup image that is open: its generations, and the way to add one. */
export class BackupImage implements AsyncDisposable {
  #head: ImageHead;
  #writer: GenerationWriter | undefined;
  #isUnknown = false;

  private constructor(
    readonly store: ImageStore,
    readonly core: Core,
    head: ImageHead,
  ) {
    this.#head = head;
  }

  /**
   * Opens the image on a store; from then on the image closes the store.
   *
   * @throws CofferdamError NOT_AN_IMAGE, IMAGE_VERSION, IMAGE_TRUNCATED, IMAGE_CORRUPT, DEVICE_IO
   */
  static async open(store: ImageStore, core: Core): Promise<BackupImage> {
    return new BackupImage(store, core, await readHead(store, core));
  }

  /**
   * Writes an image of no generations onto a store that holds nothing but zeros.
   *
   * @throws CofferdamError TARGET_FULL, TARGET_WRITE_FAILED, and as {@link open}
   */
  static async initialise(
    store: ImageStore,
    core: Core,
    options: { uuid?: string } = {},
  ): Promise<BackupImage> {
    if (store.capacityBytes < DATA_START) {
      throw new CofferdamError('TARGET_FULL', `${store.name}: an image needs at least ${DATA_START} bytes`, {
        device: store.name,
      });
    }
    const uuid = options.uuid ?? randomUUID();
    // One write whose only sector that is not zero is the first: after a crash there is an image or there is nothing.
    const bytes = new Uint8Array(DATA_START);
    bytes.set(encodeSuperblock({ uuid, sequence: 1, endBytes: DATA_START, catalog: null }, core));
    await store.write(0, bytes);
    await store.sync();
    return BackupImage.open(store, core);
  }

  get uuid(): string {
    return this.#head.superblock.uuid;
  }

  /** Damage that was got around when the image was opened, for people; empty for a sound image. */
  get warnings(): readonly string[] {
    return this.#head.warnings;
  }

  /** In ascending order. */
  get generations(): readonly CatalogEntry[] {
    return this.#head.catalog.generations;
  }

  /**
   * @throws CofferdamError UNKNOWN_GENERATION
   */
  entry(generation: number | 'latest'): CatalogEntry {
    const entry =
      generation === 'latest'
        ? this.generations.at(-1)
        : this.generations.find((candidate) => candidate.generation === generation);
    if (entry) return entry;
    const known = this.generations.map((candidate) => candidate.generation).join(', ');
    throw new CofferdamError(
      'UNKNOWN_GENERATION',
      this.generations.length === 0
        ? `${this.store.name} holds no generation yet`
        : `${this.store.name} has no generation ${generation}; it has ${known}`,
      { device: this.store.name },
    );
  }

  /**
   * @throws CofferdamError UNKNOWN_GENERATION, IMAGE_CORRUPT, IMAGE_TRUNCATED, DEVICE_IO
   */
  async record(generation: number | 'latest'): Promise<GenerationRecord> {
    const entry = this.entry(generation);
    const what = `the record of generation ${entry.generation}`;
    const pointer = { ...entry.record, blake3: entry.fingerprint };
    const reader = this.#reader();
    const record = await reader.readJson(pointer, generationRecordSchema, what);
    const fault =
      recordFault(record) ??
      (sameEntry(catalogEntry(record, entry.record, entry.fingerprint), entry)
        ? undefined
        : 'the catalog says something else about it');
    if (fault !== undefined) throw reader.error('IMAGE_CORRUPT', `${what} makes no sense: ${fault}`, pointer);
    return record;
  }

  /**
   * The block map of a device of a generation.
   *
   * @throws CofferdamError UNKNOWN_DEVICE
   */
  blockMap(record: GenerationRecord, device: string | DeviceRecord): BlockMap {
    const found = typeof device === 'string' ? findDevice(record, device) : device;
    return new BlockMap(this.#reader(), mapShape(record, found), found.root);
  }

  /**
   * Starts to write the next generation; there can be one at a time. It must be ended by `commit` or `abandon`.
   *
   * @throws CofferdamError READ_ONLY, DEVICE_BUSY, IMAGE_CORRUPT where it cannot be known what is free,
   * TARGET_WRITE_FAILED after a commit that nobody knows the end of
   */
  beginGeneration(): GenerationWriter {
    const { name } = this.store;
    const refuse = (
      code: 'READ_ONLY' | 'DEVICE_BUSY' | 'IMAGE_CORRUPT' | 'TARGET_WRITE_FAILED',
      why: string,
    ) => new CofferdamError(code, `${name}: ${why}`, { device: name });
    if (!this.store.writable) throw refuse('READ_ONLY', 'the image is open for reading only');
    if (this.#writer) throw refuse('DEVICE_BUSY', 'a generation is being written already');
    if (this.#isUnknown) {
      throw refuse(
        'TARGET_WRITE_FAILED',
        'the last commit may or may not have arrived; open the image again',
      );
    }
    const { freeFromBytes } = this.#head;
    if (freeFromBytes === undefined) {
      throw refuse(
        'IMAGE_CORRUPT',
        'the newest state of the image cannot be read, so another backup could overwrite or drop it; ' +
          'try again if the medium failed for a moment, else restore what there is and start a new image',
      );
    }
    this.#writer = new GenerationWriter(this.store, this.core, this.#head, freeFromBytes, (outcome) =>
      this.#onEnd(outcome),
    );
    return this.#writer;
  }

  /** @throws CofferdamError DEVICE_BUSY while a generation is written: its threads would write to whatever file comes next */
  async close(): Promise<void> {
    if (this.#writer) {
      throw new CofferdamError(
        'DEVICE_BUSY',
        `${this.store.name}: a generation is being written; end it first`,
        {
          device: this.store.name,
        },
      );
    }
    await this.store.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #onEnd(outcome: WriterOutcome): void {
    this.#writer = undefined;
    if (outcome.kind === 'unknown') this.#isUnknown = true;
    if (outcome.kind !== 'committed') return;
    const { superblock, catalog } = outcome;
    // Warnings stay: what was wrong when the image was opened is still news to whoever asks.
    const { warnings } = this.#head;
    this.#head = { superblock, catalog, warnings, freeFromBytes: superblock.endBytes };
  }

  #reader(): ImageReader {
    return new ImageReader(this.store, this.core, this.#head.superblock.endBytes);
  }
}

/** @throws CofferdamError UNKNOWN_DEVICE */
export function findDevice(record: GenerationRecord, deviceId: string): DeviceRecord {
  const device = record.devices.find((candidate) => candidate.id === deviceId);
  if (device) return device;
  const known = record.devices.map((candidate) => candidate.id).join(', ');
  throw new CofferdamError(
    'UNKNOWN_DEVICE',
    `generation ${record.generation} has no device ${deviceId}; it has ${known}`,
    { device: deviceId },
  );
}

function sameEntry(a: CatalogEntry, b: CatalogEntry): boolean {
  const fields = Object.keys(a) as (keyof CatalogEntry)[];
  return fields.every((field) => field === 'record' || a[field] === b[field]);
}
