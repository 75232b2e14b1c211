import type { BlockDevice } from '../devices/block-device.js';
import { ReadOnlyDevice } from '../devices/read-only.js';
import { CofferdamError, isCofferdamError, messageOf } from '../runtime/errors.js';
import type { CutSource } from '../servers/control.js';
import type { RemoteProcess } from './cut-calls.js';
import { LEASE_MS } from './leases.js';

/** What was copied is told in so many ranges at a time, and no more are remembered. */
const MAX_RANGES = 5000;

/** How long what was copied may be kept to oneself, in ms. */
const TELL_MS = 200;

export interface RemoteSourceOptions {
  process: RemoteProcess;
  serverId: string;
  lease: string;
  uri: string;
  selected: Int32Array<SharedArrayBuffer> | undefined;
  sizeBytes: number;
  blockSizeBytes: number;
}

/** The contents of a device of another process as of a cut, read over NBD. Its lease is renewed until it is closed. */
export class RemoteSource implements CutSource {
  readonly device: BlockDevice;
  /** The bitmaps of copy-before-write are in the memory of another process. */
  readonly native = undefined;
  readonly selected: Int32Array<SharedArrayBuffer> | undefined;
  readonly #options: RemoteSourceOptions;
  #opened: Promise<BlockDevice> | undefined;
  #ranges: [first: number, count: number][] = [];
  #telling: Promise<void> | undefined;
  #timer: Disposable | undefined;
  #toldAtMs: number;
  #isClosed = false;

  constructor(options: RemoteSourceOptions) {
    this.#options = options;
    this.selected = options.selected;
    this.device = new ReadOnlyDevice(
      `${options.serverId} as of a cut`,
      options.sizeBytes,
      options.blockSizeBytes,
      {
        read: async (offsetBytes, into) => (await this.#open()).read(offsetBytes, into),
        allocation: async (offsetBytes, lengthBytes) =>
          (await this.#open()).allocation(offsetBytes, lengthBytes),
      },
    );
    this.#toldAtMs = options.process.clock.nowMs();
    this.#tellInTime();
  }

  /** Told a little later, many at a time. Should some be lost, the other side keeps a few pre-images longer. */
  markCopied(firstBlock: number, blockCount: number): void {
    const last = this.#ranges.at(-1);
    if (last && last[0] + last[1] === firstBlock) last[1] += blockCount;
    else if (this.#ranges.length < MAX_RANGES) this.#ranges.push([firstBlock, blockCount]);
  }

  async assertIntact(): Promise<void> {
    const { process, lease, serverId } = this.#options;
    try {
      await process.calls.assertIntact(lease);
    } catch (error) {
      if (!isCofferdamError(error, 'UNKNOWN_SNAPSHOT')) throw error;
      throw new CofferdamError(
        'SNAPSHOT_BROKEN',
        `server ${serverId}: ${error.message}; nothing was committed, the backup has to be repeated`,
        { device: serverId, cause: error },
      );
    }
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#timer?.[Symbol.dispose]();
    await this.#telling;
    const { process, lease } = this.#options;
    const opened = await this.#opened?.catch(() => undefined);
    // What cannot be given back goes when its lease runs out.
    await Promise.allSettled([opened?.close(), process.calls.closeSource(lease)]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Not before it is needed: a barrier is up while the cut is under way. */
  #open(): Promise<BlockDevice> {
    this.#opened ??= this.#connect();
    return this.#opened;
  }

  async #connect(): Promise<BlockDevice> {
    const { uri, serverId, process } = this.#options;
    try {
      return await process.openSnapshot(uri);
    } catch (error) {
      throw new CofferdamError(
        'SNAPSHOT_BROKEN',
        `server ${serverId}: its snapshot cannot be read: ${messageOf(error)}`,
        {
          device: serverId,
          cause: error,
        },
      );
    }
  }

  #tellInTime(): void {
    const { clock } = this.#options.process;
    this.#timer = clock.setTimer(TELL_MS, () => {
      if (this.#isClosed) return;
      const isDue = clock.nowMs() - this.#toldAtMs >= LEASE_MS / 3;
      if (!this.#telling && (isDue || this.#ranges.length > 0)) this.#telling = this.#tell();
      this.#tellInTime();
    });
  }

  /** Tells what was copied, which also renews the lease. */
  async #tell(): Promise<void> {
    const { process, lease } = this.#options;
    const ranges = this.#ranges;
    this.#ranges = [];
    this.#toldAtMs = process.clock.nowMs();
    try {
      await process.calls.markCopied(lease, ranges);
    } catch {
      // Whether the source is still there is found out by whoever asks if it is intact.
    } finally {
      this.#telling = undefined;
    }
  }
}
