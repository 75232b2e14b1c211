import { mkdir, open, stat, truncate, writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { loadCore } from '#src/core/load';
import { BlockSpecialDevice } from '#src/devices/block-special';
import { openDevice } from '#src/devices/open';
import { MiB } from '#src/runtime/sizes';
import { differenceAt, randomBytes, readBytes } from '../support/bytes.js';
import { temporaryDirectory } from '../support/directory.js';
import { addPartitions, attachLoop, mount, run } from '../support/loop-device.js';
import { needs } from '../support/needs.js';
import { holdOpen } from './holder.js';

const loopTest = needs('root', 'losetup', '/dev/loop-control');

async function sparseFile(path: string, sizeBytes: number): Promise<void> {
  await writeFile(path, '');
  await truncate(path, sizeBytes);
}

loopTest('its size is the device’s own, in whole sectors', async () => {
  await using directory = temporaryDirectory();
  await sparseFile(directory.file('image'), 5 * MiB + 700);
  await using loop = await attachLoop(directory.file('image'));
  await using device = await BlockSpecialDevice.open(loop.path);
  expect(device.name).toBe(loop.path);
  expect(device.sizeBytes).toBe(5 * MiB + 512);
  expect((await stat(loop.path)).size).toBe(0);
});

loopTest('what was flushed is in the file behind a loop device, at its place', async () => {
  await using directory = temporaryDirectory();
  await sparseFile(directory.file('image'), MiB);
  const bytes = randomBytes(10_000, 1);
  {
    await using loop = await attachLoop(directory.file('image'));
    await using device = await BlockSpecialDevice.open(loop.path);
    await device.write(50_001, bytes, { fua: true });
    const file = await open(directory.file('image'));
    const found = new Uint8Array(10_000);
    await file.read(found, 0, 10_000, 50_001);
    await file.close();
    expect(differenceAt(found, bytes)).toBeUndefined();
  }
});

loopTest('it has one opener at a time, even to read, in this process and in others', async () => {
  await using directory = temporaryDirectory();
  await sparseFile(directory.file('image'), MiB);
  await using loop = await attachLoop(directory.file('image'));
  const busy = { code: 'DEVICE_BUSY', device: loop.path };
  {
    await using _device = await BlockSpecialDevice.open(loop.path, { readOnly: true });
    await expect(BlockSpecialDevice.open(loop.path)).rejects.toMatchObject(busy);
    await expect(BlockSpecialDevice.open(loop.path, { readOnly: true })).rejects.toMatchObject(busy);
  }
  {
    await using _other = await holdOpen(loop.path);
    await expect(BlockSpecialDevice.open(loop.path)).rejects.toMatchObject(busy);
  }
  await using _device = await BlockSpecialDevice.open(loop.path);
});

needs(
  'root',
  'losetup',
  '/dev/loop-control',
  'mkfs.ext4',
  'mount',
)('a mounted device is refused, and the message says where it is mounted', async () => {
  await using directory = temporaryDirectory();
  await sparseFile(directory.file('image'), 4 * MiB);
  await using loop = await attachLoop(directory.file('image'));
  await run('mkfs.ext4', '-q', loop.path);
  const point = directory.file('mount point');
  await mkdir(point);
  {
    await using _mounted = await mount(loop.path, point);
    for (const readOnly of [true, false]) {
      await expect(openDevice(loop.path, { readOnly })).rejects.toMatchObject({
        code: 'DEVICE_BUSY',
        device: loop.path,
        message: expect.stringContaining(`mounted on ${point};`) as unknown,
      });
    }
  }
  await using _device = await openDevice(loop.path);
});

needs(
  'root',
  'losetup',
  '/dev/loop-control',
  'addpart',
  'mkfs.ext4',
  'mount',
)('a partition is a device of its own; while it is mounted the whole disk is refused', async () => {
  await using directory = temporaryDirectory();
  await sparseFile(directory.file('image'), 16 * MiB);
  await using loop = await attachLoop(directory.file('image'), '--partscan');
  await addPartitions(loop, 6 * MiB);
  await run('mkfs.ext4', '-q', `${loop.path}p1`);
  const point = directory.file('mounted');
  await mkdir(point);
  await using _mounted = await mount(`${loop.path}p1`, point);
  await expect(openDevice(loop.path)).rejects.toMatchObject({
    code: 'DEVICE_BUSY',
    message: expect.stringContaining(`mounted on ${point};`) as unknown,
  });
  await using device = await openDevice(`${loop.path}p2`);
  expect(device.sizeBytes).toBe(6 * MiB);
  await device.write(6 * MiB - 4, Uint8Array.of(1, 2, 3, 4));
  expect(await readBytes(device, 6 * MiB - 4, 4)).toEqual(Uint8Array.of(1, 2, 3, 4));
});

for (const [operation, free] of [
  ['trim', (device: BlockSpecialDevice) => device.trim(MiB - 100, 2 * MiB + 200)],
  ['write zeroes', (device: BlockSpecialDevice) => device.writeZeroes(MiB - 100, 2 * MiB + 200)],
] as const) {
  needs(
    'root',
    'losetup',
    '/dev/loop-control',
    'native core',
  )(`${operation} goes through to the file behind a loop device`, async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('image');
    await sparseFile(path, 4 * MiB);
    await using loop = await attachLoop(path);
    await using device = await BlockSpecialDevice.open(loop.path, { core: await loadCore('native') });
    await device.write(0, randomBytes(4 * MiB, 1));
    await device.flush();
    const before = (await stat(path)).blocks * 512;
    await free(device);
    await device.flush();
    expect((await stat(path)).blocks * 512).toBe(before - 2 * MiB);
  });
}

needs(
  'root',
  'losetup',
  '/dev/loop-control',
  'mount',
)('a flush that could not save everything fails, and so does every later one', async () => {
  await using directory = temporaryDirectory();
  await using _mounted = await mount('-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', directory.path);
  await sparseFile(directory.file('image'), 16 * MiB);
  await using loop = await attachLoop(directory.file('image'));
  await using device = await BlockSpecialDevice.open(loop.path);
  // The kernel takes these into its cache and finds out later that there is no room for them.
  await device.write(0, randomBytes(8 * MiB, 1));
  const failed = { device: loop.path, message: expect.stringContaining('fdatasync') as unknown };
  const both = await Promise.allSettled([
    device.flush(),
    device.write(9 * MiB, Uint8Array.of(1), { fua: true }),
  ]);
  for (const one of both) expect(one).toMatchObject({ status: 'rejected', reason: failed });
  await expect(device.flush()).rejects.toMatchObject(failed);
  await expect(device.writeZeroes(0, 4096, { fua: true })).rejects.toMatchObject(failed);
});

test('what is not a block special file is refused', async () => {
  await using directory = temporaryDirectory();
  await writeFile(directory.file('file'), '');
  for (const path of [directory.file('file'), directory.path, '/dev/null']) {
    await expect(BlockSpecialDevice.open(path)).rejects.toMatchObject({
      code: 'DEVICE_UNSUPPORTED',
      device: path,
    });
  }
  await expect(BlockSpecialDevice.open(directory.file('none'))).rejects.toMatchObject({
    code: 'DEVICE_NOT_FOUND',
  });
});
