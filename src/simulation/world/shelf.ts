import { DeviceStore } from '../../backup/image/device-store.js';
import { GenerationDevice } from '../../backup/image/generation-device.js';
import { BackupImage } from '../../backup/image/image.js';
import type { GenerationRecord } from '../../backup/image/record.js';
import type { BlockDevice } from '../../devices/block-device.js';
import { isCofferdamError, messageOf } from '../../runtime/errors.js';
import type { History, Window } from '../../witness/history.js';
import { judgeCopy } from '../../witness/judge.js';
import type { Disk } from './disk.js';
import { InterceptedDevice } from './intercepted-device.js';
import type { Surroundings } from './surroundings.js';

interface Kept {
  /** Number of its copy in the history. */
  copy: number;
  /** Hash of each device's contents when it was found to be committed, by ID. */
  hashes: Map<string, string>;
}

/**
 * An image, and what must be in it. Checked here:
 *
 * 1. A generation is on the medium, whole, as soon as anyone was told that it is committed.
 * 2. From then on it restores to the same bytes.
 * 3. A generation of which nobody heard is in the image only if a backup was under way that could have committed it.
 * 4. The judge passes it.
 */
export class Shelf {
  readonly disk: Disk;
  readonly #world: Surroundings;
  readonly #owner: string;
  readonly #history: History;
  readonly #kept = new Map<number, Kept>();
  /** The copies under way or of unknown outcome, by the generation that each would become. */
  readonly #expected = new Map<number, number>();
  #isBlank = true;

  constructor(world: Surroundings, owner: string, disk: Disk, history: History) {
    this.#world = world;
    this.#owner = owner;
    this.disk = disk;
    this.#history = history;
  }

  /** Whether no image was ever found on the disk. */
  get isBlank(): boolean {
    return this.#isBlank;
  }

  get generations(): number {
    return this.#kept.size;
  }

  /** A copy is begun that would become this generation. */
  expect(generation: number, copy: number): void {
    this.#expected.set(generation, copy);
  }

  /** Its maker was told that a generation is committed. */
  async committed(generation: number): Promise<void> {
    const image = await this.#onMedium();
    if (image) await this.#keep(generation, image);
    else this.#violated('commit', `generation ${generation} was committed, and there is no image`);
  }

  /** The image was opened: what it holds is what was committed, and what may have been when it was last heard of. */
  async found(image: BackupImage): Promise<void> {
    // A slot that cannot be read today hides generations; nothing is written then.
    if (image.warnings.length === 0) this.#compare(image);
    // What is only in the cache may still be lost; nobody was told of it.
    const durable = await this.#onMedium();
    for (const { generation } of durable?.generations ?? []) {
      if (durable && !this.#kept.has(generation)) await this.#keep(generation, durable);
    }
  }

  /** Looks at everything once more, from the medium alone. */
  async checkAll(): Promise<void> {
    const image = await this.#onMedium();
    if (!image) return this.#compareWith(new Set());
    await this.found(image);
    for (const [generation, { copy, hashes }] of this.#kept) {
      const record = await this.#record(image, generation);
      if (!record) continue;
      for (const [id, hash] of await this.#hash(image, record)) {
        if (hashes.get(id) !== hash)
          this.#violated('earlier generations', `${id} of generation ${generation} has changed`);
      }
      await this.#judge(image, record, this.#history.windowOf(copy));
    }
  }

  async #keep(generation: number, image: BackupImage): Promise<void> {
    const copy = this.#expected.get(generation);
    if (copy === undefined) {
      return this.#violated('commit', `generation ${generation} is there, but nobody was making it`);
    }
    this.#history.completeCopy(copy);
    this.#compare(image, generation);
    const record = await this.#record(image, generation);
    const hashes = record ? await this.#hash(image, record) : new Map<string, string>();
    this.#kept.set(generation, { copy, hashes });
  }

  #compare(image: BackupImage, newest?: number): void {
    this.#compareWith(new Set(image.generations.map(({ generation }) => generation)), newest);
  }

  #compareWith(there: ReadonlySet<number>, newest?: number): void {
    for (const generation of [...this.#kept.keys(), ...(newest === undefined ? [] : [newest])]) {
      if (!there.has(generation))
        this.#violated('commit', `generation ${generation} was committed and is gone`);
    }
  }

  async #record(image: BackupImage, generation: number): Promise<GenerationRecord | undefined> {
    try {
      return await image.record(generation);
    } catch (error) {
      this.#violated('earlier generations', `generation ${generation}: ${messageOf(error)}`);
      return undefined;
    }
  }

  async #hash(image: BackupImage, record: GenerationRecord): Promise<Map<string, string>> {
    const hashes = new Map<string, string>();
    for (const { id, sizeBytes } of record.devices) {
      const bytes = new Uint8Array(sizeBytes);
      try {
        await new GenerationDevice(image, record, id).read(0, bytes);
        hashes.set(id, Buffer.from(this.#world.core.hash('xxh64', bytes)).toString('hex'));
      } catch (error) {
        this.#violated(
          'earlier generations',
          `${id} of generation ${record.generation}: ${messageOf(error)}`,
        );
      }
    }
    return hashes;
  }

  async #judge(image: BackupImage, record: GenerationRecord, window: Window): Promise<void> {
    const devices = new Map<string, BlockDevice>(
      record.devices.map(({ id }) => [id, new GenerationDevice(image, record, id)]),
    );
    const { group, devices: alone } = await judgeCopy(this.#history, devices, window);
    const verdicts = record.consistency === 'group' ? [group] : [...alone.values()];
    for (const verdict of verdicts) {
      if (verdict.consistent) continue;
      const what = `image of ${this.#owner}: generation ${record.generation} by ${record.strategy}`;
      this.#world.inconsistent('crash consistency', what, verdict);
    }
  }

  /** The image as it would be found if the power went out now and the cache were lost; undefined if none was made yet. */
  async #onMedium(): Promise<BackupImage | undefined> {
    const device = new InterceptedDevice(this.disk.medium, (_operation, request) => request());
    try {
      const image = await BackupImage.open(new DeviceStore(device), this.#world.core);
      this.#isBlank = false;
      return image;
    } catch (error) {
      if (this.#isBlank && isCofferdamError(error, 'NOT_AN_IMAGE')) return undefined;
      throw error;
    }
  }

  #violated(invariant: string, what: string): void {
    this.#world.violated(invariant, `image of ${this.#owner}: ${what}`);
  }
}
