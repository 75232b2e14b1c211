import fc from 'fast-check';
import { expect, test } from 'vitest';
import { GenerationDevice } from '#src/backup/image/generation-device';
import { BackupImage } from '#src/backup/image/image';
import { loadCore } from '#src/core/load';
import { Random } from '#src/runtime/random';
import { KiB, MiB } from '#src/runtime/sizes';
import { readBytes } from '../support/bytes.js';
import { testSeed } from '../support/seed.js';
import { randomDevice, writeGeneration, type DeviceContent } from './support/generations.js';
import { MemoryStore } from './support/memory-store.js';

const SIZE = 3 * MiB + 777;

async function open(): Promise<{
  device: GenerationDevice;
  content: DeviceContent;
  store: MemoryStore;
  image: BackupImage;
}> {
  const store = new MemoryStore();
  const image = await BackupImage.initialise(store, await loadCore());
  const content = randomDevice(new Random(1), 'a', SIZE, 4 * KiB, 0.3);
  content.bytes.fill(9, SIZE - 100);
  await writeGeneration(image, [content]);
  return { device: new GenerationDevice(image, await image.record(1), 'a'), content, store, image };
}

test('it reads any range, and tells zeros from data', async () => {
  const { device, content } = await open();
  expect(device.sizeBytes).toBe(SIZE);
  await fc.assert(
    fc.asyncProperty(
      fc.nat(SIZE),
      fc.oneof(fc.nat(10), fc.nat(10 * KiB), fc.nat(SIZE)),
      async (offset, wanted) => {
        const length = Math.min(wanted, SIZE - offset);
        expect(
          Buffer.compare(
            await readBytes(device, offset, length),
            content.bytes.subarray(offset, offset + length),
          ),
        ).toBe(0);
        let at = offset;
        for (const extent of await device.allocation(offset, length)) {
          expect(extent.offsetBytes).toBe(at);
          at += extent.lengthBytes;
          const isZero = content.bytes.subarray(extent.offsetBytes, at).every((byte) => byte === 0);
          if (extent.kind === 'zero') expect(isZero).toBe(true);
        }
        expect(at).toBe(offset + length);
      },
    ),
    { seed: testSeed() },
  );
  // Exactly the blocks that are zero are told to be.
  const zero = (await device.allocation(0, SIZE)).filter(({ kind }) => kind === 'zero');
  let zeroBlocks = 0;
  for (let at = 0; at < SIZE; at += 4 * KiB)
    if (content.bytes.subarray(at, at + 4 * KiB).every((byte) => byte === 0)) zeroBlocks++;
  expect(zero.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0)).toBe(zeroBlocks * 4 * KiB);
});

test('many reads at once', async () => {
  const { device, content } = await open();
  const random = new Random(testSeed());
  await Promise.all(
    Array.from({ length: 50 }, async () => {
      const offset = random.below(SIZE - 20_000);
      const expected = content.bytes.subarray(offset, offset + 20_000);
      expect(Buffer.compare(await readBytes(device, offset, 20_000), expected)).toBe(0);
    }),
  );
});

test('a read of a damaged block fails with its range, and others do not', async () => {
  const { device, content, store, image } = await open();
  const block =
    Array.from({ length: 700 }, (_, i) => i).find((i) =>
      content.bytes.subarray(i * 4096, (i + 1) * 4096).some((byte) => byte !== 0),
    ) ?? 0;
  const leaf = await image.blockMap(await image.record(1), 'a').leaf(Math.floor(block / 256));
  const place = leaf?.offsets[block % 256] ?? 0;
  await store.write(place + 5, Uint8Array.of(255 ^ (store.bytes[place + 5] ?? 0)));

  for (const [offset, length] of [
    [block * 4096, 4096],
    [block * 4096 + 9, 1],
    [0, SIZE],
  ] as const) {
    await expect(device.read(offset, new Uint8Array(length))).rejects.toMatchObject({
      code: 'BLOCK_CORRUPT',
      device: 'a',
      offsetBytes: block * 4096,
      lengthBytes: 4096,
    });
  }
  const rest = await readBytes(device, (block + 1) * 4096);
  expect(Buffer.compare(rest, content.bytes.subarray((block + 1) * 4096))).toBe(0);
});

test('it is read-only, keeps to its size, and ends', async () => {
  const { device } = await open();
  expect(device.capabilities.readOnly).toBe(true);
  expect(device.nativeSource).toBeUndefined();
  for (const change of [device.write(0, new Uint8Array(1)), device.trim(0, 1), device.writeZeroes(0, 1)]) {
    await expect(change).rejects.toMatchObject({ code: 'READ_ONLY' });
  }
  await expect(device.read(SIZE, new Uint8Array(1))).rejects.toMatchObject({ code: 'OUT_OF_RANGE' });
  await expect(device.allocation(1, SIZE)).rejects.toMatchObject({ code: 'OUT_OF_RANGE' });
  await device.read(SIZE, new Uint8Array(0));
  await device.flush();
  await device.close();
  await expect(device.read(0, new Uint8Array(1))).rejects.toMatchObject({ code: 'DEVICE_CLOSED' });
  await device.close();
});
