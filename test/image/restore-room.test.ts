import { mkdirSync } from 'node:fs';
import { open, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { describe, expect, test, vi } from 'vitest';
import type { DeviceProgress } from '#src/backup/progress';
import { restore } from '#src/backup/restore';
import { CofferdamError } from '#src/runtime/errors';
import { Random } from '#src/runtime/random';
import { KiB, MiB } from '#src/runtime/sizes';
import { differenceAt, randomBytes } from '../support/bytes.js';
import { temporaryDirectory } from '../support/directory.js';
import { mount } from '../support/loop-device.js';
import { needs } from '../support/needs.js';
import { randomDevice, writeGeneration } from './support/generations.js';
import { damage } from './support/places.js';
import { bench, setUp } from './support/stores.js';

/** A device of so many bytes, the first of which are random and the others zeros. */
function beginningWith(randomLengthBytes: number, sizeBytes: number): Uint8Array {
  const bytes = new Uint8Array(sizeBytes);
  bytes.set(randomBytes(randomLengthBytes, 1));
  return bytes;
}

needs('root')('a restore onto a file has the room of what the file held', async () => {
  await using tools = await setUp(bench[0] ?? 'portable');
  const { image, pool } = tools;
  const bytes = beginningWith(20 * MiB, 40 * MiB);
  await writeGeneration(image, [{ id: 'a', blockSizeBytes: 4096, bytes }]);
  await using directory = temporaryDirectory();
  const place = directory.file('small');
  mkdirSync(place);
  const mounted = await mount('-t', 'tmpfs', '-o', 'size=32m', 'none', place);
  try {
    const path = `${place}/a.img`;
    {
      // As large as the device, with its data in the other half: there is no room for both.
      await using file = await open(path, 'wx');
      await file.write(Buffer.alloc(20 * MiB, 7), 0, 20 * MiB, 20 * MiB);
    }
    await restore(image, { targets: new Map([['a', path]]), force: true, pool });
    expect(differenceAt(await readFile(path), bytes)).toBeUndefined();
  } finally {
    await mounted[Symbol.asyncDispose]();
  }
});

test.each(bench)(
  'a restore onto an empty file leaves holes where the device has zeros (%s)',
  async (kind) => {
    await using tools = await setUp(kind);
    const { image, pool, directory } = tools;
    const bytes = beginningWith(MiB, 64 * MiB);
    await writeGeneration(image, [{ id: 'a', blockSizeBytes: 64 * KiB, bytes }]);
    const path = directory.file('a.img');
    await writeFile(path, '');
    await restore(image, { targets: new Map([['a', path]]), force: true, pool });
    expect(differenceAt(await readFile(path), bytes)).toBeUndefined();
    expect((await stat(path)).blocks * 512).toBeLessThan(8 * MiB);
  },
);

test.each(bench)('a restore onto a file without holes leaves nothing of it (%s)', async (kind) => {
  await using tools = await setUp(kind);
  const { image, pool, directory } = tools;
  const bytes = beginningWith(MiB, 8 * MiB);
  await writeGeneration(image, [{ id: 'a', blockSizeBytes: 64 * KiB, bytes }]);
  const path = directory.file('a.img');
  await writeFile(path, Buffer.alloc(8 * MiB, 7));
  await restore(image, { targets: new Map([['a', path]]), force: true, pool });
  expect(differenceAt(await readFile(path), bytes)).toBeUndefined();
});

// With the portable core the file is emptied, and its map is read once.
describe.each(bench.filter((kind) => kind !== 'portable'))('a restore onto a file through %s', (kind) => {
  test.each([
    ['at first', 1],
    ['the second time', 2],
  ])('leaves nothing of it where the map could not be read %s', async (_, badTime) => {
    await using tools = await setUp(kind);
    const { image, pool, directory, store } = tools;
    const content = randomDevice(new Random(1), 'a', 4 * MiB - 9, 4 * KiB, 0.5);
    await writeGeneration(image, [content]);
    const node = await image.blockMap(await image.record(1), 'a').node(0, 3);
    const read = store.read.bind(store);
    let reads = 0;
    vi.spyOn(store, 'read').mockImplementation(async (offsetBytes, into) => {
      if (offsetBytes === node?.place.offset && ++reads === badTime) {
        throw new CofferdamError('DEVICE_IO', 'the medium failed for a moment');
      }
      await read(offsetBytes, into);
    });
    const path = directory.file('disk');
    await writeFile(path, randomBytes(4 * MiB, 1));
    let progress: readonly DeviceProgress[] = [];
    const { devices } = await restore(image, {
      targets: new Map([['a', path]]),
      pool,
      force: true,
      skipBad: true,
      onProgress: (all) => (progress = all),
    });
    expect(reads).toBe(2);
    const lost = { offsetBytes: 3 * MiB, lengthBytes: MiB - 9 };
    expect(devices[0]?.bad).toMatchObject(badTime === 1 ? [] : [lost]);
    if (badTime === 2) content.bytes.fill(0, lost.offsetBytes);
    expect(differenceAt(await readFile(path), content.bytes)).toBeUndefined();
    expect(progress).toMatchObject([{ doneBytes: 4 * MiB - 9, totalBytes: 4 * MiB - 9 }]);
  });

  test('leaves it as it was if nothing can be restored', async () => {
    await using tools = await setUp(kind);
    const { image, pool, directory, store } = tools;
    await writeGeneration(image, [randomDevice(new Random(1), 'a', 4 * MiB, 4 * KiB, 0.5)]);
    await damage(store, (await image.record(1)).devices[0]?.root?.offset ?? 0);
    const path = directory.file('disk');
    const before = randomBytes(4 * MiB, 1);
    await writeFile(path, before);
    const restoring = restore(image, { targets: new Map([['a', path]]), pool, force: true });
    await expect(restoring).rejects.toMatchObject({ code: 'BLOCK_CORRUPT' });
    expect(differenceAt(await readFile(path), before)).toBeUndefined();
  });
});

needs('root')(
  'a restore onto a file leaves holes where the file system can only empty all of it',
  async () => {
    await using tools = await setUp(bench[0] ?? 'portable');
    const { image, pool, directory } = tools;
    const bytes = beginningWith(MiB, 64 * MiB);
    await writeGeneration(image, [{ id: 'a', blockSizeBytes: 64 * KiB, bytes }]);
    const place = directory.file('ramfs');
    mkdirSync(place);
    await using _mount = await mount('-t', 'ramfs', 'none', place);
    const path = `${place}/a.img`;
    await writeFile(path, randomBytes(MiB, 2));
    await truncate(path, 64 * MiB);
    await restore(image, { targets: new Map([['a', path]]), force: true, pool });
    const { blocks } = await stat(path);
    expect(differenceAt(await readFile(path), bytes)).toBeUndefined();
    // Taken before: what is read comes into the memory that this file system is.
    expect(blocks * 512).toBeLessThan(8 * MiB);
  },
);
