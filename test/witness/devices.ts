import type { WriteOptions } from '#src/devices/block-device';
import { MemoryDevice } from '#src/devices/memory';
import { Random } from '#src/runtime/random';

/** Lets the event loop turn that many times. */
export async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** Takes some turns of the event loop over each write and applies it sector by sector, like a real device. */
export class SlowDevice extends MemoryDevice {
  readonly random: Random;

  constructor(sizeBytes: number, seed: number) {
    super(sizeBytes);
    this.random = new Random(seed);
  }

  override async write(offsetBytes: number, bytes: Uint8Array, options?: WriteOptions): Promise<void> {
    await turns(this.random.below(4));
    for (let start = 0; start < bytes.length; start += 512) {
      await super.write(offsetBytes + start, bytes.subarray(start, start + 512), options);
      await turns(this.random.below(2));
    }
    await turns(this.random.below(4));
  }
}

/** Copies all devices in one turn of the event loop, so as of one instant. */
export async function copyAtOnce(
  devices: ReadonlyMap<string, MemoryDevice>,
): Promise<Map<string, MemoryDevice>> {
  const reads = [...devices].map(([id, device]) => {
    const bytes = new Uint8Array(device.sizeBytes);
    return { id, bytes, done: device.read(0, bytes) };
  });
  const copies = new Map<string, MemoryDevice>();
  for (const { id, bytes, done } of reads) {
    await done;
    const copy = new MemoryDevice(bytes.length);
    await copy.write(0, bytes);
    copies.set(id, copy);
  }
  return copies;
}
