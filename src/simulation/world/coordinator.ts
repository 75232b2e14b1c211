import { backup, type BackupResult } from '../../backup/backup.js';
import { DeviceStore } from '../../backup/image/device-store.js';
import { BackupImage } from '../../backup/image/image.js';
import type { Strategy } from '../../backup/image/record.js';
import { sleep } from '../../runtime/clock.js';
import { CofferdamError, isCofferdamError, messageOf, type ErrorCode } from '../../runtime/errors.js';
import type { Random } from '../../runtime/random.js';
import type { ServerControl } from '../../servers/control.js';
import type { History } from '../../witness/history.js';
import { Disk } from './disk.js';
import { InterceptedDevice } from './intercepted-device.js';
import { InlinePool } from './inline-pool.js';
import type { Machine, Run } from './machine.js';
import { Shelf } from './shelf.js';
import type { Surroundings } from './surroundings.js';
import type { SwarmConfig } from './swarm.js';

/** Errors that no trouble of the world explains. */
const NEVER: readonly ErrorCode[] = [
  'BAD_ARGUMENT',
  'BLOCK_CORRUPT',
  'IMAGE_TRUNCATED',
  'NOT_AN_IMAGE',
  'PROTOCOL_ERROR',
  'SOURCE_SHRUNK',
  'UNKNOWN_DEVICE',
  'UNKNOWN_GENERATION',
];

/** A stall budget that no honest backup spends here. */
const PATIENT_STALL_MS = 60_000;

/** What became of one try to make a backup. */
export type Attempt =
  { kind: 'committed'; result: BackupResult } | { kind: 'failed'; error: unknown } | { kind: 'crashed' };

export interface CoordinatorOptions {
  config: SwarmConfig;
  name: string;
  machine: Machine;
  history: History;
  /** The servers as a run of the machine reaches them. */
  serversFor: (run: Run) => ServerControl[];
}

/** Makes one backup after the other into an image on a disk of its own. */
export class Coordinator {
  readonly name: string;
  readonly machine: Machine;
  readonly #world: Surroundings;
  readonly #options: CoordinatorOptions;
  readonly #random: Random;
  readonly #pool: InlinePool;
  #shelf: Shelf;
  /** The codes with which backups failed. */
  readonly failures: string[] = [];
  /** Told when its image is about to be flushed. */
  onFlush: () => void = () => {};
  readonly #fullShelves: Shelf[] = [];

  constructor(world: Surroundings, options: CoordinatorOptions) {
    this.#world = world;
    this.#options = options;
    this.name = options.name;
    this.machine = options.machine;
    this.#random = world.random.fork();
    this.#pool = new InlinePool(world.core);
    this.#shelf = this.#newShelf(options.config.imageBytes);
  }

  /** All images that it has written, the full ones first. */
  get shelves(): readonly Shelf[] {
    return [...this.#fullShelves, this.#shelf];
  }

  get disk(): Disk {
    return this.#shelf.disk;
  }

  /** Goes on in another image, of this size. */
  takeNewImage(sizeBytes: number): void {
    this.#fullShelves.push(this.#shelf);
    this.#shelf = this.#newShelf(sizeBytes);
  }

  /** Makes backups for as long as things may go wrong. */
  async keepOn(): Promise<void> {
    const { config } = this.#options;
    while (this.#world.hasFaults) {
      await sleep(this.#world.time, -Math.log(1 - this.#random.unit()) * config.backupEveryMs);
      if (this.machine.isUp && this.#world.hasFaults) await this.attempt();
    }
  }

  /** One backup. What a crash leaves of it goes on in vain. */
  attempt(): Promise<Attempt> {
    const run = this.machine.present;
    return new Promise((resolve, reject) => {
      const onEnd = run.onEnd(() => resolve({ kind: 'crashed' }));
      void this.#attempt(run)
        .then(resolve, reject)
        .finally(() => onEnd[Symbol.dispose]());
    });
  }

  async #attempt(run: Run): Promise<Attempt> {
    const { config, history } = this.#options;
    const strategy = this.#random.pick(config.strategies);
    const controller = new AbortController();
    using _cancel = this.#cancelSometimes(controller);
    const copy = history.requestCopy();
    try {
      this.#world.trace.tell(this.name, `backup ${copy} by ${strategy}`);
      await using image = await this.#open(run);
      this.#shelf.expect(image.generations.length + 1, copy);
      const result = await this.#backup(run, image, strategy, controller.signal);
      if (run.isOver) return { kind: 'crashed' };
      this.#world.trace.tell(this.name, `backup ${copy} is generation ${result.generation}`);
      await this.#shelf.committed(result.generation);
      return { kind: 'committed', result };
    } catch (error) {
      if (!run.isOver) this.#failed(copy, error);
      return { kind: 'failed', error };
    }
  }

  #backup(run: Run, image: BackupImage, strategy: Strategy, signal: AbortSignal): Promise<BackupResult> {
    const { config, serversFor } = this.#options;
    // In calm times nobody is in a hurry.
    const maxStallMs = this.#world.hasFaults ? config.maxStallMs : PATIENT_STALL_MS;
    return backup({
      servers: serversFor(run),
      to: image,
      strategy,
      blockSizeBytes: config.blockSizeBytes,
      ...(config.limitBytesPerSecond > 0 ? { limitBytesPerSecond: config.limitBytesPerSecond } : {}),
      // Under `hold` writes wait for the whole copy, however long it takes: its lease is renewed.
      ...(strategy === 'hold' ? {} : { maxStallMs }),
      pool: this.#pool,
      clock: this.machine.clock,
      signal,
    });
  }

  /** The image, as the machine finds it after whatever has happened. */
  async #open(run: Run): Promise<BackupImage> {
    const device = new InterceptedDevice(this.disk.attachTo(run), (operation, request) => {
      if (operation === 'flush' && !run.isOver) this.onFlush();
      return request();
    });
    const store = new DeviceStore(device);
    const image = await this.#openOrInitialise(store);
    if (!run.isOver) await this.#shelf.found(image);
    return image;
  }

  async #openOrInitialise(store: DeviceStore): Promise<BackupImage> {
    const { core } = this.#world;
    try {
      return await BackupImage.open(store, core);
    } catch (error) {
      if (!this.#shelf.isBlank || !isCofferdamError(error, 'NOT_AN_IMAGE')) throw error;
      return await BackupImage.initialise(store, core, { uuid: uuidOf(this.#random) });
    }
  }

  #cancelSometimes(controller: AbortController): Disposable {
    const { cancelShare, backupEveryMs } = this.#options.config;
    if (!this.#world.hasFaults || !this.#random.chance(cancelShare)) return { [Symbol.dispose]: () => {} };
    return this.#world.time.setTimer(this.#random.unit() * backupEveryMs, () => controller.abort());
  }

  #failed(copy: number, error: unknown): void {
    const code = error instanceof CofferdamError ? error.code : 'not a CofferdamError';
    this.failures.push(code);
    this.#world.trace.tell(this.name, `backup ${copy} failed: ${code}: ${messageOf(error)}`);
    if (isCofferdamError(error) && !this.#inexplicable().includes(error.code)) return;
    const stack = error instanceof Error ? error.stack : '';
    this.#world.violated('errors', `backup ${copy} failed with ${code}: ${messageOf(error)}\n${stack}`);
  }

  #inexplicable(): readonly ErrorCode[] {
    // A superblock that cannot be read today looks like one that is damaged.
    return this.#options.config.imageDisk.errorShare > 0 ? NEVER : [...NEVER, 'IMAGE_CORRUPT'];
  }

  #newShelf(sizeBytes: number): Shelf {
    const { config, history } = this.#options;
    const disk = new Disk(this.#world, `image-${this.name}`, sizeBytes, config.imageDisk);
    return new Shelf(this.#world, this.name, disk, history);
  }
}

/** A version 4 UUID that the seed decides. */
function uuidOf(random: Random): string {
  const hex = Array.from({ length: 4 }, () => random.uint32().toString(16).padStart(8, '0')).join('');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20)}`;
}
