import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { MemoryDevice, StorageServer, backup } from 'cofferdam';
import { openImage } from '#src/backup/image/open';
import { KiB, MiB } from '#src/runtime/sizes';
import { differenceAt, randomBytes, readBytes } from '../support/bytes.js';
import { temporaryDirectory } from '../support/directory.js';
import { Stranger } from './stranger.js';
import { MemoryStore } from './support/memory-store.js';
import { changed, randomDevice, writeGeneration } from './support/generations.js';
import { BackupImage } from '#src/backup/image/image';
import { loadCore } from '#src/core/load';
import { Random } from '#src/runtime/random';
import { testSeed } from '../support/seed.js';

test('a reader written from docs/FORMAT.md alone reads what backups wrote', async () => {
  await using directory = temporaryDirectory();
  const path = directory.file('backup.cofferdam');
  // A root that is a leaf, with a short last block; three levels; nothing but zeros; no bytes at all.
  const sizes = { small: 100 * KiB + 700, deep: 257 * MiB, zero: MiB, none: 0 };
  const devices = Object.entries(sizes).map(([id, size]) => ({ id, device: new MemoryDevice(size) }));
  const servers = devices.map((options) => new StorageServer(options));
  const [small, deep] = servers;

  await small?.client.write(0, randomBytes(9 * KiB, 1));
  await small?.client.write(sizes.small - 900, randomBytes(900, 2));
  await deep?.client.write(0, randomBytes(3000, 3));
  await deep?.client.write(256 * MiB - 5 * KiB, randomBytes(20 * KiB, 4));
  const first = await backup({ servers, to: path, blockSizeBytes: 4 * KiB, hash: 'xxh64' });
  const firstContents = await Promise.all(servers.map((server) => readBytes(server.client)));

  await small?.client.write(50 * KiB, randomBytes(4 * KiB, 5));
  const second = await backup({
    servers: servers.slice(0, 1),
    to: path,
    blockSizeBytes: 64 * KiB,
    hash: 'blake3',
  });

  const stranger = await Stranger.open(await readFile(path));
  expect((await stranger.catalog()).map((entry) => entry.generation)).toEqual([1, 2]);
  expect((await stranger.catalog()).map((entry) => entry.fingerprint)).toEqual([
    first.fingerprint,
    second.fingerprint,
  ]);
  for (const [i, { id }] of devices.entries()) {
    const expected = firstContents[i] ?? new Uint8Array();
    expect(differenceAt(await stranger.device(1, id), expected), `device ${id}`).toBeUndefined();
  }
  const changedSmall = await readBytes(servers[0]?.client ?? new MemoryDevice(0));
  expect(differenceAt(await stranger.device(2, 'small'), changedSmall)).toBeUndefined();

  await using image = await openImage(path);
  expect(stranger.uuid).toBe(image.uuid.replaceAll('-', ''));
});

test('it reads incrementals, and finds them whole without their parents', async () => {
  const random = new Random(testSeed());
  const store = new MemoryStore();
  await using image = await BackupImage.initialise(store, await loadCore());
  const before = [
    randomDevice(random, 'a', 3 * MiB + 512, 4 * KiB, 0.1),
    randomDevice(random, 'b', 64 * KiB, 16 * KiB, 1),
  ];
  await writeGeneration(image, before);
  const after = before.map((device) => changed(random, device, 5));
  await writeGeneration(image, after, { base: { record: await image.record(1), devices: before } });

  const stranger = await Stranger.open(store.bytes);
  for (const [generation, devices] of [before, after].entries()) {
    for (const { id, bytes } of devices) {
      expect(
        differenceAt(await stranger.device(generation + 1, id), bytes),
        `${generation + 1}/${id}`,
      ).toBeUndefined();
    }
  }
});
