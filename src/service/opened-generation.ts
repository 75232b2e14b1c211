import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { GenerationDevice } from '../backup/image/generation-device.js';
import type { BackupImage } from '../backup/image/image.js';
import { openImage } from '../backup/image/open.js';
import type { BlockDevice } from '../devices/block-device.js';
import { makeFolder } from '../devices/folder.js';
import { openError } from '../devices/os-error.js';
import { OverlayDevice } from '../devices/overlay.js';
import { ReadOnlyDevice } from '../devices/read-only.js';
import type { NbdUri } from '../nbd/uri.js';
import { realClock } from '../runtime/clock.js';
import { errnoOf, messageOf } from '../runtime/errors.js';
import { Listeners } from './listeners.js';

export interface OpenGenerationOptions {
  /** Path of the backup image, which is opened to read, beside other readers. */
  image: string;
  generation: number | 'latest';
  /** Where to export the devices, each under its ID. */
  listen: NbdUri;
  /**
   * Makes the devices writable. What is written goes to this file or, of a generation of several devices or if it is a
   * folder, to the file `ID.overlay` in it. Files that are there are used again.
   */
  overlay?: string | undefined;
  /** Is told once of each place that a client could not read, up to a thousand of them. */
  onDamage?: ((message: string) => void) | undefined;
}

/** One device of a generation, as it is exported. */
export interface OpenedExport {
  name: string;
  kind: 'generation' | 'overlay';
  sizeBytes: number;
  uri: string;
  /** Where what is written goes; undefined for a device that is read-only. */
  overlay: string | undefined;
}

const MOST_MESSAGES = 1000;

/**
 * The devices of a generation, exported over NBD as they lie in the image.
 *
 * Invariant: when {@link close} has succeeded, everything that a client was told was written is in the overlays, durably.
 */
export class OpenedGeneration implements AsyncDisposable {
  readonly exports: OpenedExport[] = [];
  readonly #devices: BlockDevice[] = [];
  readonly #listeners = new Listeners(realClock);
  #closing: Promise<void> | undefined;

  private constructor(
    readonly image: BackupImage,
    readonly generation: number,
  ) {}

  /**
   * @throws CofferdamError UNKNOWN_GENERATION, and what opening images and overlays and listening throw. Whatever was
   * opened before is closed again.
   */
  static async open(options: OpenGenerationOptions): Promise<OpenedGeneration> {
    const image = await openImage(options.image);
    let opened: OpenedGeneration | undefined;
    try {
      const record = await image.record(options.generation);
      opened = new OpenedGeneration(image, record.generation);
      const damage = new DamageReport(options.onDamage);
      const ids = record.devices.map(({ id }) => id);
      const overlays = options.overlay === undefined ? undefined : await overlaysOf(options.overlay, ids);
      for (const id of ids) {
        const base = damage.watch(new GenerationDevice(image, record, id));
        await opened.#add(options.listen, id, base, overlays?.get(id));
      }
      return opened;
    } catch (error) {
      await (opened ?? image).close();
      throw error;
    }
  }

  /** Answers the requests in flight, makes everything durable, and closes. May be repeated. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    try {
      // 1. Nobody writes any more, and whoever wrote was answered.
      await this.#listeners.close();
      // 2. What was answered becomes durable.
      await Promise.all(this.#devices.map((device) => device.flush()));
    } finally {
      // 3. Only then is it closed.
      await Promise.all(this.#devices.map((device) => device.close()));
      await this.image.close();
    }
  }

  async #add(listen: NbdUri, id: string, base: BlockDevice, overlay: string | undefined): Promise<void> {
    const { fingerprint } = this.image.entry(this.generation);
    const baseName = `device ${id} of generation ${fingerprint}`;
    const device = overlay === undefined ? base : await OverlayDevice.open(overlay, { base, baseName });
    this.#devices.push(device);
    await this.#listeners.add(listen, { name: id, device, description: `generation ${this.generation}` });
    const kind = overlay === undefined ? 'generation' : 'overlay';
    const uri = this.#listeners.uriOf(id);
    this.exports.push({ name: id, kind, sizeBytes: device.sizeBytes, uri, overlay });
  }
}

/** The file of each device's overlay. */
async function overlaysOf(path: string, ids: readonly string[]): Promise<Map<string, string>> {
  const isFolder = ids.length > 1 || (await isDirectory(path));
  if (!isFolder) return new Map(ids.map((id) => [id, path]));
  await makeFolder(path);
  return new Map(ids.map((id) => [id, join(path, `${id}.overlay`)]));
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw openError(path, error);
  }
}

/** Passes on why reads fail, which a client learns no more of than that they do. */
class DamageReport {
  readonly #told = new Set<string>();
  readonly #onDamage: (message: string) => void;

  constructor(onDamage: (message: string) => void = () => {}) {
    this.#onDamage = onDamage;
  }

  watch(device: BlockDevice): BlockDevice {
    const { name, sizeBytes, capabilities } = device;
    return new ReadOnlyDevice(name, sizeBytes, capabilities.preferredBlockBytes, {
      read: (offsetBytes, into) => this.#watched(device.read(offsetBytes, into)),
      allocation: (offsetBytes, lengthBytes) => this.#watched(device.allocation(offsetBytes, lengthBytes)),
    });
  }

  async #watched<T>(request: Promise<T>): Promise<T> {
    try {
      return await request;
    } catch (error) {
      const message = messageOf(error);
      if (!this.#told.has(message) && this.#told.size < MOST_MESSAGES) {
        this.#told.add(message);
        this.#onDamage(message);
      }
      throw error;
    }
  }
}
