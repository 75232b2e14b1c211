import { MemoryDevice } from '../../devices/memory.js';
import { sleep, type Clock } from '../../runtime/clock.js';
import type { Random } from '../../runtime/random.js';
import { SECTOR_BYTES } from '../../runtime/sizes.js';
import { StorageServer } from '../../servers/server.js';
import { exponential, type Latency } from './latency.js';

/** What the clients of one server do, and how long it takes. */
export interface Load {
  /** Each has at most one write outstanding. */
  clients: number;
  /** Mean time in ms from an answer to the client's next write. */
  thinkMs: number;
  /** One way between a client and its server. */
  wire: Latency;
  /** A write, once it is admitted. */
  disk: Latency;
}

/**
 * A storage server and its clients. They are simulated only from the coming of a cut until its barrier is down: when no
 * barrier is up no write waits, and so hours of writes cost nothing.
 *
 * Invariants:
 * 1. A client has at most one write outstanding.
 * 2. When a cut comes the clients are where they would be had they been writing for ever.
 */
export class LoadedServer {
  readonly server: StorageServer;
  readonly #load: Load;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #onParked: (waitedMs: number) => void;
  /** By client: whether its write has not ended, since when that is at the server, and how long the disk needs for it. */
  readonly #writes: { isOpen: boolean; arrivedAtMs: number; diskMs: number }[];
  /** Counts beginnings and ends of the load, so that what was set going before one of them stops there. */
  #period = 0;

  /** @param onParked is told how long a write waited for the barrier, in ms, when it is admitted. */
  constructor(id: string, load: Load, clock: Clock, random: Random, onParked: (waitedMs: number) => void) {
    this.#load = load;
    this.#clock = clock;
    this.#random = random;
    this.#onParked = onParked;
    this.#writes = Array.from({ length: load.clients }, () => ({ isOpen: false, arrivedAtMs: 0, diskMs: 0 }));
    // Each client has a sector of its own, by which the disk knows whose write it is.
    const disk = new SlowDisk(Math.max(1, load.clients) * SECTOR_BYTES, (sector) => this.#onDisk(sector));
    this.server = new StorageServer({ id, device: disk, clock });
  }

  /** Sets the clients going, each at some point of what it does over and over. */
  begin(): void {
    this.#period++;
    for (const [client, { isOpen }] of this.#writes.entries()) if (!isOpen) this.#beginSomewhere(client);
  }

  /** The clients end what they have begun. */
  end(): void {
    this.#period++;
  }

  /** Each phase of a client's round is met as often as it is long. */
  #beginSomewhere(client: number): void {
    const { thinkMs, wire, disk } = this.#load;
    const atMs = this.#random.unit() * (thinkMs + 2 * wire.meanMs + disk.meanMs);
    if (atMs < thinkMs) this.#writeIn(client, this.#untilNext());
    else if (atMs < thinkMs + wire.meanMs) this.#writeIn(client, wire.residual(this.#random));
    else if (atMs < thinkMs + 2 * wire.meanMs)
      this.#writeIn(client, wire.residual(this.#random) + this.#untilNext());
    else void this.#write(client, disk.residual(this.#random));
  }

  /** A client has its answer and thinks, then its next write is on its way. */
  #untilNext(): number {
    return exponential(this.#random, this.#load.thinkMs) + this.#load.wire.draw(this.#random);
  }

  #writeIn(client: number, delayMs: number): void {
    const period = this.#period;
    this.#clock.setTimer(delayMs, () => {
      if (period === this.#period) void this.#write(client, this.#load.disk.draw(this.#random));
    });
  }

  /** From the arrival of a write at the server on. */
  async #write(client: number, diskMs: number): Promise<void> {
    const period = this.#period;
    this.#writes[client] = { isOpen: true, arrivedAtMs: this.#clock.nowMs(), diskMs };
    await this.server.client.write(client * SECTOR_BYTES, sector);
    this.#writes[client].isOpen = false;
    if (period === this.#period)
      this.#writeIn(client, this.#load.wire.draw(this.#random) + this.#untilNext());
  }

  /** The server has admitted a client's write. */
  async #onDisk(client: number): Promise<void> {
    const { arrivedAtMs, diskMs } = this.#writes[client] ?? { arrivedAtMs: NaN, diskMs: NaN };
    const waitedMs = this.#clock.nowMs() - arrivedAtMs;
    if (waitedMs > 0) this.#onParked(waitedMs);
    await sleep(this.#clock, diskMs);
  }
}

const sector = new Uint8Array(SECTOR_BYTES);

/** A disk whose writes take their time and leave nothing behind. */
class SlowDisk extends MemoryDevice {
  readonly #write: (sector: number) => Promise<void>;

  constructor(sizeBytes: number, write: (sector: number) => Promise<void>) {
    super(sizeBytes);
    this.#write = write;
  }

  override write(offsetBytes: number): Promise<void> {
    return this.#write(offsetBytes / SECTOR_BYTES);
  }
}
