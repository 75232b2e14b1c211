import { link, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { identityOf, openDevice } from '#src/devices/open';
import { MiB } from '#src/runtime/sizes';
import { temporaryDirectory } from '../support/directory.js';
import { addPartitions, attachLoop } from '../support/loop-device.js';
import { needs } from '../support/needs.js';

async function same(one: string, other: string): Promise<boolean> {
  const identities = await identityOf(one);
  return (await identityOf(other)).some((identity) => identities.includes(identity));
}

test('files are opened and created, anything else is refused', async () => {
  await using directory = temporaryDirectory();
  const path = directory.file('image');
  await expect(openDevice(path)).rejects.toMatchObject({ code: 'DEVICE_NOT_FOUND', device: path });
  {
    await using device = await openDevice(path, { create: { sizeBytes: 1000 } });
    expect(device).toMatchObject({ sizeBytes: 1000, name: path });
  }
  {
    await using device = await openDevice(path, { readOnly: true });
    expect(device.capabilities.readOnly).toBe(true);
  }
  for (const other of [directory.path, '/dev/null']) {
    await expect(openDevice(other)).rejects.toMatchObject({ code: 'DEVICE_UNSUPPORTED', device: other });
  }
});

needs(
  'root',
  'losetup',
  '/dev/loop-control',
)('loop devices are opened, and cannot be created', async () => {
  await using directory = temporaryDirectory();
  await writeFile(directory.file('image'), new Uint8Array(MiB));
  await using loop = await attachLoop(directory.file('image'));
  await expect(openDevice(loop.path, { create: { sizeBytes: MiB } })).rejects.toMatchObject({
    code: 'DEVICE_UNSUPPORTED',
  });
  await using device = await openDevice(loop.path);
  expect(device.sizeBytes).toBe(MiB);
});

test('all names of a file are the same, and other files are not', async () => {
  await using directory = temporaryDirectory();
  const [path, other, none] = [directory.file('a'), directory.file('b'), directory.file('none')];
  await writeFile(path, 'equal');
  await writeFile(other, 'equal');
  await link(path, directory.file('hard-link'));
  await symlink(path, directory.file('symlink'));
  expect(await same(path, path)).toBe(true);
  expect(await same(path, directory.file('hard-link'))).toBe(true);
  expect(await same(directory.file('symlink'), path)).toBe(true);
  expect(await same(path, other)).toBe(false);
  expect(await identityOf(none)).toEqual([]);
});

needs(
  'root',
  'losetup',
  '/dev/loop-control',
)('a loop device is the same as its file, its partitions and other loop devices over the file', async () => {
  await using directory = temporaryDirectory();
  const [path, other] = [directory.file('image'), directory.file('other')];
  for (const file of [path, other]) {
    await writeFile(file, '');
    await truncate(file, 16 * MiB);
  }
  await using loop = await attachLoop(path, '--partscan');
  await addPartitions(loop, 6 * MiB);
  await using second = await attachLoop(path);
  await using stacked = await attachLoop(loop.path);
  await using foreign = await attachLoop(other, '--partscan');
  await addPartitions(foreign, 6 * MiB);
  for (const name of [path, loop.path, second.path, stacked.path, `${loop.path}p1`, `${loop.path}p2`]) {
    expect(await same(loop.path, name)).toBe(true);
    expect(await same(name, path)).toBe(true);
    expect(await same(name, foreign.path)).toBe(false);
    expect(await same(name, other)).toBe(false);
  }
  // A loop device can outlive the name of its file. Then only the device itself tells.
  await rm(other);
  expect(await same(foreign.path, `${foreign.path}p2`)).toBe(true);
  expect(await same(`${foreign.path}p1`, `${foreign.path}p2`)).toBe(false);
});
