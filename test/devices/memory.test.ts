import { expect, test } from 'vitest';
import { MemoryDevice } from '#src/devices/memory';
import { GiB, KiB, MiB } from '#src/runtime/sizes';
import { readBytes } from '../support/bytes.js';

test('a large device takes memory only where it was written', async () => {
  const before = process.memoryUsage().arrayBuffers;
  await using device = new MemoryDevice(64 * GiB);
  await device.write(64 * GiB - 3, Uint8Array.of(1, 2, 3));
  await device.write(5 * GiB, Uint8Array.of(4));
  await device.writeZeroes(0, 64 * GiB - 3);
  await device.trim(0, 64 * GiB - 3);
  expect(await readBytes(device, 64 * GiB - 4, 4)).toEqual(Uint8Array.of(0, 1, 2, 3));
  expect(await readBytes(device, 5 * GiB, 1)).toEqual(Uint8Array.of(0));
  const extents = await device.allocation(0, 64 * GiB);
  expect(extents).toEqual([
    { offsetBytes: 0, lengthBytes: 64 * GiB - 64 * KiB, kind: 'zero' },
    { offsetBytes: 64 * GiB - 64 * KiB, lengthBytes: 64 * KiB, kind: 'data' },
  ]);
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(4 * MiB);
});

test('a trim gives back the chunks that lie in it as a whole', async () => {
  await using device = new MemoryDevice(MiB + 100);
  await device.write(0, new Uint8Array(MiB + 100).fill(1));
  await device.trim(64 * KiB - 1, MiB - 64 * KiB + 2);
  expect(await device.allocation(0, MiB + 100)).toEqual([
    { offsetBytes: 0, lengthBytes: 64 * KiB, kind: 'data' },
    { offsetBytes: 64 * KiB, lengthBytes: MiB - 64 * KiB, kind: 'zero' },
    { offsetBytes: MiB, lengthBytes: 100, kind: 'data' },
  ]);
  // The last chunk is shorter than the others, and all of it is now trimmed.
  await device.trim(MiB, 100);
  expect((await device.allocation(MiB, 100)).map((extent) => extent.kind)).toEqual(['zero']);
});

test('a size that is no number of bytes is refused', () => {
  for (const size of [-1, 0.5, NaN, 2 ** 53]) {
    expect(() => new MemoryDevice(size)).toThrow(expect.objectContaining({ code: 'BAD_ARGUMENT' }));
  }
});
