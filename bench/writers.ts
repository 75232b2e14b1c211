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

function placeIn(device: BlockDevice, random: Random): number {
  return random.below(device.sizeBytes / WRITE_BYTES) * WRITE_BYTES;
}
