import type { BlockDevice, Extent, WriteOptions, WriteZeroesOptions } from '#src/devices/block-device';
import { Lifetime } from '#src/devices/lifetime';
import { MemoryDevice } from '#src/devices/memory';
import type { Random } from '#src/runtime/random';
import { SECTOR_BYTES } from '#src/runtime/sizes';

/**
 * A memory device that takes every liberty the contract leaves: the sectors of requests in flight are read and written
 * one by one in any order, decided by a seed. It uses no time and no real I/O, so a run can be repeated exactly.
 */
export class JitteryDevice implements BlockDevice {
  readonly name: string = 'jittery memory';
  readonly sizeBytes: number;
  readonly capabilities;
  readonly nativeSource = undefined;
  readonly #memory: MemoryDevice;
  readonly #random: Random;
  readonly #lifetime = new Lifetime(this);

  constructor(sizeBytes: number, random: Random) {
    this.#memory = new MemoryDevice(sizeBytes);
    this.sizeBytes = sizeBytes;
    this.capabilities = this.#memory.capabilities;
    this.#random = random;
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    using _request = this.#lifetime.admit('read', offsetBytes, into.length);
    await this.#sectors(offsetBytes, into.length, (start, end) =>
      this.#memory.read(start, into.subarray(start - offsetBytes, end - offsetBytes)),
    );
  }

  async write(offsetBytes: number, bytes: Uint8Array, _options?: WriteOptions): Promise<void> {
    using _request = this.#lifetime.admit('write', offsetBytes, bytes.length);
    await this.#sectors(offsetBytes, bytes.length, (start, end) =>
      this.#memory.write(start, bytes.subarray(start - offsetBytes, end - offsetBytes)),
    );
  }

  async flush(): Promise<void> {
    using _request = this.#lifetime.admitFlush();
    await this.#wait();
  }

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    using _request = this.#lifetime.admit('trim', offsetBytes, lengthBytes);
    await this.#sectors(offsetBytes, lengthBytes, async (start, end) => {
      if (this.#random.chance(0.5)) await this.#memory.write(start, new Uint8Array(end - start).fill(0xdd));
    });
  }

  async writeZeroes(offsetBytes: number, lengthBytes: number, _options?: WriteZeroesOptions): Promise<void> {
    using _request = this.#lifetime.admit('write zeroes', offsetBytes, lengthBytes);
    await this.#sectors(offsetBytes, lengthBytes, (start, end) =>
      this.#memory.writeZeroes(start, end - start),
    );
  }

  async allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    using _request = this.#lifetime.admit('allocation', offsetBytes, lengthBytes);
    await this.#wait();
    return await this.#memory.allocation(offsetBytes, lengthBytes);
  }

  close(): Promise<void> {
    return this.#lifetime.close(() => this.#memory.close());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #sectors(
    offsetBytes: number,
    lengthBytes: number,
    action: (start: number, end: number) => Promise<void>,
  ): Promise<void> {
    const parts: Promise<void>[] = [this.#wait()];
    const end = offsetBytes + lengthBytes;
    for (let start = offsetBytes; start < end;) {
      const [from, to] = [start, Math.min(end, (Math.floor(start / SECTOR_BYTES) + 1) * SECTOR_BYTES)];
      parts.push(this.#wait().then(() => action(from, to)));
      start = to;
    }
    await Promise.all(parts);
  }

  async #wait(): Promise<void> {
    for (let steps = this.#random.below(12); steps > 0; steps--) await Promise.resolve();
  }
}
