import type { BlockDevice } from '#src/devices/block-device';
import { Random } from '#src/runtime/random';
import { KiB } from '#src/runtime/sizes';

const WRITE_BYTES = 4 * KiB;

/** Clients that write 4 KiB at random places, each as soon as its last write was answered, until they are closed. */
export class ClosedLoopWriters implements AsyncDisposable {
  readonly #writers: Promise<void>[];
  #stopping = false;

  /** @param devices one writer per device; the same device may be there several times. */
  constructor(devices: readonly BlockDevice[], seed: number) {
    const random = new Random(seed);
    this.#writers = devices.map((device) => this.#write(device, random.fork()));
  }

  async #write(device: BlockDevice, random: Random): Promise<void> {
    const bytes = new Uint8Array(WRITE_BYTES).fill(0xc1);
    while (!this.#stopping) await device.write(placeIn(device, random), bytes);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#writers);
  }
}

/**
 * A client that sends writes of 4 KiB to random places of a device at a steady rate, answered or not, so that a stall
 * is met by all the writes that fall due in it. A write takes from when it is due to when it is answered.
 */
export class SteadyWriter implements AsyncDisposable {
  /** Of every write answered so far, in ms. */
  readonly latenciesMs: number[] = [];
  readonly #device: BlockDevice;
  readonly #writesPerMs: number;
  readonly #random: Random;
  readonly #bytes = new Uint8Array(WRITE_BYTES).fill(0xc1);
  readonly #inFlight = new Set<Promise<void>>();
  readonly #timer: NodeJS.Timeout;
  #dueMs = performance.now();

  constructor(device: BlockDevice, writesPerMs: number, seed: number) {
    this.#device = device;
    this.#writesPerMs = writesPerMs;
    this.#random = new Random(seed);
    this.#timer = setInterval(() => this.#sendDue(), 1);
  }

  #sendDue(): void {
    for (const nowMs = performance.now(); this.#dueMs <= nowMs; this.#dueMs++) {
      for (let i = 0; i < this.#writesPerMs; i++) {
        const write = this.#send(this.#dueMs).finally(() => this.#inFlight.delete(write));
        this.#inFlight.add(write);
      }
    }
  }

  async #send(dueMs: number): Promise<void> {
    await this.#device.write(placeIn(this.#device, this.#random), this.#bytes);
    this.latenciesMs.push(performance.now() - dueMs);
  }

  /** Sends no more, and resolves when all is answered. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all(this.#inFlight);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}

function placeIn(device: BlockDevice, random: Random): number {
  return random.below(device.sizeBytes / WRITE_BYTES) * WRITE_BYTES;
}
