import { expect, test } from 'vitest';
import { backup, BackupImage, FaultyDevice, MemoryDevice, StorageServer } from 'cofferdam';
import { DeviceStore } from '#src/backup/image/device-store';
import { DATA_START, SLOT_OFFSETS } from '#src/backup/image/layout';
import { loadCore } from '#src/core/load';
import { MiB } from '#src/runtime/sizes';
import { ManualClock } from '../support/manual-clock.js';

test.for([
  ['its newest catalog', { offsetBytes: DATA_START, lengthBytes: 31 * MiB }],
  ['a superblock slot', { offsetBytes: SLOT_OFFSETS[1], lengthBytes: 4096 }],
] as const)('a moment in which %s cannot be read costs no generation', async ([, range]) => {
  const core = await loadCore();
  const medium = new FaultyDevice(new MemoryDevice(32 * MiB), { clock: new ManualClock() });
  await using server = new StorageServer({ id: 'a', device: new MemoryDevice(MiB) });
  const image = await BackupImage.initialise(new DeviceStore(medium), core);
  const fingerprints: string[] = [];
  for (let i = 1; i <= 3; i++) {
    await server.client.write(0, new Uint8Array(512).fill(i));
    fingerprints.push((await backup({ servers: [server], to: image, workers: 1 })).fingerprint);
  }

  const fault = medium.inject({ operation: 'read', range, nth: 1, fault: { error: 'DEVICE_IO' } });
  const seen = await BackupImage.open(new DeviceStore(medium), core);
  expect(fault.hits).toBe(1);
  expect(seen.warnings.length).toBeGreaterThan(0);
  await expect(backup({ servers: [server], to: seen, workers: 1 })).rejects.toMatchObject({
    code: 'IMAGE_CORRUPT',
  });

  const again = await BackupImage.open(new DeviceStore(medium), core);
  expect(again.warnings).toEqual([]);
  expect(again.generations.map((entry) => entry.fingerprint)).toEqual(fingerprints);
  expect((await backup({ servers: [server], to: again, workers: 1 })).generation).toBe(4);
});

test('a medium that cannot be read is not taken for one that holds no image', async () => {
  const core = await loadCore();
  const medium = new FaultyDevice(new MemoryDevice(MiB), { clock: new ManualClock() });
  await BackupImage.initialise(new DeviceStore(medium), core);
  // The second slot of an image without generations is blank.
  medium.inject({ operation: 'read', nth: 1, fault: { error: 'DEVICE_IO' } });
  await expect(BackupImage.open(new DeviceStore(medium), core)).rejects.toMatchObject({
    code: 'DEVICE_IO',
    message: expect.stringContaining('cannot be told'),
  });
  expect((await BackupImage.open(new DeviceStore(medium), core)).generations).toEqual([]);
});

test('an image is not closed under a generation that is being written', async () => {
  const image = await BackupImage.initialise(new DeviceStore(new MemoryDevice(MiB)), await loadCore());
  const writer = image.beginGeneration();
  await expect(image.close()).rejects.toMatchObject({ code: 'DEVICE_BUSY' });
  await writer.abandon();
  await image.close();
});
