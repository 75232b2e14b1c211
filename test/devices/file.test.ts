import { link, mkdir, open, readdir, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { loadCore } from '#src/core/load';
import { FileDevice } from '#src/devices/file';
import { GiB, MiB } from '#src/runtime/sizes';
import { differenceAt, randomBytes, readBytes } from '../support/bytes.js';
import { holdOpen } from './holder.js';
import { temporaryDirectory } from '../support/directory.js';
import { mount } from '../support/loop-device.js';
import { needs } from '../support/needs.js';

test('a file is opened as it is', async () => {
  await using directory = temporaryDirectory();
  const path = directory.file('image');
  const bytes = randomBytes(12_345, 1);
  await writeFile(path, bytes);
  await using device = await FileDevice.open(path, { readOnly: true });
  expect(device.name).toBe(path);
  expect(differenceAt(await readBytes(device), bytes)).toBeUndefined();
});

test('what is not there, or not a regular file, is refused with the reason', async () => {
  await using directory = temporaryDirectory();
  await mkdir(directory.file('folder'));
  await writeFile(directory.file('file'), '');
  await symlink('loop', directory.file('loop'));
  const refused = async (path: string): Promise<unknown> =>
    await FileDevice.open(path).catch((error: unknown) => error);
  expect(await refused(directory.file('nothing'))).toMatchObject({ code: 'DEVICE_NOT_FOUND' });
  expect(await refused(directory.file('file/in-a-file'))).toMatchObject({ code: 'DEVICE_NOT_FOUND' });
  expect(await refused(directory.file('folder'))).toMatchObject({ code: 'DEVICE_UNSUPPORTED' });
  expect(await refused('/dev/null')).toMatchObject({ code: 'DEVICE_UNSUPPORTED' });
  const reason: unknown = expect.stringContaining('ELOOP');
  expect(await refused(directory.file('loop'))).toMatchObject({ code: 'DEVICE_IO', message: reason });
});

test('a file is created with holes only, and never over another', async () => {
  await using directory = temporaryDirectory();
  const path = directory.file('image');
  {
    await using device = await FileDevice.open(path, { create: { sizeBytes: 3 * GiB + 1 } });
    expect(device.sizeBytes).toBe(3 * GiB + 1);
  }
  const { size, blocks } = await stat(path);
  expect(size).toBe(3 * GiB + 1);
  expect(blocks * 512).toBeLessThan(MiB);
  await expect(FileDevice.open(path, { create: { sizeBytes: 1 } })).rejects.toMatchObject({
    code: 'TARGET_EXISTS',
  });
  expect((await stat(path)).size).toBe(3 * GiB + 1);
});

test('a file that cannot be created as asked leaves nothing behind', async () => {
  await using directory = temporaryDirectory();
  const create = (sizeBytes: number, readOnly = false): Promise<FileDevice> =>
    FileDevice.open(directory.file('image'), { readOnly, create: { sizeBytes } });
  await expect(create(-1)).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
  await expect(create(1, true)).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
  await expect(create(Number.MAX_SAFE_INTEGER)).rejects.toMatchObject({
    code: 'DEVICE_FULL',
    device: directory.file('image'),
  });
  expect(await readdir(directory.path)).toEqual([]);
});

for (const name of ['native', 'portable'] as const) {
  const testOnCore = name === 'native' ? needs('native core') : test;

  testOnCore(`one opener that writes, or many that read, in this process, ${name} core`, async () => {
    await using directory = temporaryDirectory();
    const core = await loadCore(name);
    const path = directory.file('image');
    await writeFile(path, 'content');
    await link(path, directory.file('hard-link'));
    await symlink(path, directory.file('symlink'));
    const refused = async (readOnly: boolean): Promise<void> => {
      for (const alias of [path, directory.file('hard-link'), directory.file('symlink')]) {
        const busy = {
          code: 'DEVICE_BUSY',
          device: alias,
          message: expect.stringContaining('this process') as unknown,
        };
        await expect(FileDevice.open(alias, { core, readOnly })).rejects.toMatchObject(busy);
      }
    };
    {
      await using _writer = await FileDevice.open(path, { core });
      await refused(false);
      await refused(true);
    }
    {
      await using _one = await FileDevice.open(path, { core, readOnly: true });
      {
        await using _two = await FileDevice.open(directory.file('hard-link'), { core, readOnly: true });
        await refused(false);
      }
      await refused(false);
    }
    await using _writer = await FileDevice.open(path, { core });
  });
}

needs('native core')('one opener that writes, or many that read, of all processes', async () => {
  await using directory = temporaryDirectory();
  const core = await loadCore('native');
  const path = directory.file('image');
  await writeFile(path, 'content');
  const busy = {
    code: 'DEVICE_BUSY',
    device: path,
    message: expect.stringContaining('another process') as unknown,
  };
  {
    await using _other = await holdOpen(path, { core: 'native' });
    await expect(FileDevice.open(path, { core })).rejects.toMatchObject(busy);
    await expect(FileDevice.open(path, { core, readOnly: true })).rejects.toMatchObject(busy);
  }
  {
    await using _other = await holdOpen(path, { core: 'native', readOnly: true });
    await using _reader = await FileDevice.open(path, { core, readOnly: true });
    await expect(FileDevice.open(path, { core })).rejects.toMatchObject({ code: 'DEVICE_BUSY' });
  }
  // The other process is gone, and its lock with it.
  await using _writer = await FileDevice.open(path, { core });
});

for (const [operation, free] of [
  ['trim', (device: FileDevice) => device.trim(MiB, 2 * MiB)],
  ['write zeroes', (device: FileDevice) => device.writeZeroes(MiB, 2 * MiB)],
] as const) {
  needs('native core')(`${operation} gives space back to the file system`, async () => {
    await using directory = temporaryDirectory();
    await using device = await FileDevice.open(directory.file('image'), {
      create: { sizeBytes: 4 * MiB },
      core: await loadCore('native'),
    });
    await device.write(0, randomBytes(4 * MiB, 1));
    await device.flush();
    const before = (await stat(device.name)).blocks * 512;
    await free(device);
    expect((await stat(device.name)).blocks * 512).toBe(before - 2 * MiB);
    expect(await device.allocation(0, 4 * MiB)).toEqual([
      { offsetBytes: 0, lengthBytes: MiB, kind: 'data' },
      { offsetBytes: MiB, lengthBytes: 2 * MiB, kind: 'zero' },
      { offsetBytes: 3 * MiB, lengthBytes: MiB, kind: 'data' },
    ]);
  });
}

needs('native core')('zeroes that may not be trimmed keep their space', async () => {
  await using directory = temporaryDirectory();
  await using device = await FileDevice.open(directory.file('image'), {
    create: { sizeBytes: 4 * MiB },
    core: await loadCore('native'),
  });
  await device.write(0, randomBytes(4 * MiB, 1));
  await device.flush();
  const before = (await stat(device.name)).blocks;
  await device.writeZeroes(MiB, 2 * MiB, { mayTrim: false });
  await device.flush();
  expect((await stat(device.name)).blocks).toBe(before);
  expect(differenceAt(await readBytes(device, MiB, 2 * MiB), new Uint8Array(2 * MiB))).toBeUndefined();
});

test('a file that shrinks is an I/O error, in what it lost alone', async () => {
  await using directory = temporaryDirectory();
  const path = directory.file('image');
  await writeFile(path, new Uint8Array(10_000).fill(1));
  await using device = await FileDevice.open(path);
  await truncate(path, 6000);
  const shrank = { code: 'DEVICE_IO', device: path, message: expect.stringContaining('shrank') as unknown };
  await expect(device.read(5000, new Uint8Array(2000))).rejects.toMatchObject({
    ...shrank,
    offsetBytes: 6000,
  });
  await expect(device.read(9999, new Uint8Array(1))).rejects.toMatchObject(shrank);
  await expect(device.allocation(0, 10_000)).rejects.toMatchObject(shrank);
  expect(await readBytes(device, 5000, 1000)).toEqual(new Uint8Array(1000).fill(1));
});

test('a file that grows is the size it was', async () => {
  await using directory = temporaryDirectory();
  const path = directory.file('image');
  await writeFile(path, new Uint8Array(1000));
  await using device = await FileDevice.open(path);
  await truncate(path, 5000);
  expect(device.sizeBytes).toBe(1000);
  await expect(device.read(1000, new Uint8Array(1))).rejects.toMatchObject({ code: 'OUT_OF_RANGE' });
});

needs(
  'root',
  'mount',
  'native core',
)('a full file system is DEVICE_FULL, and the device can be used on', async () => {
  await using directory = temporaryDirectory();
  await using _mounted = await mount('-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', directory.path);
  const path = directory.file('image');
  const handle = await open(path, 'w');
  await handle.truncate(8 * MiB);
  await handle.close();
  await using device = await FileDevice.open(path, { core: await loadCore('native') });
  await device.write(0, new Uint8Array(4096).fill(1));
  const message = expect.stringMatching(
    /^[^:]+: writing 4194304 bytes at 1048576 failed: No space left .*; free space/,
  );
  const full = { code: 'DEVICE_FULL', device: path, offsetBytes: MiB, lengthBytes: 4 * MiB, message };
  await expect(device.write(MiB, new Uint8Array(4 * MiB).fill(2))).rejects.toMatchObject(full);
  expect(await readBytes(device, 0, 4096)).toEqual(new Uint8Array(4096).fill(1));
  await device.writeZeroes(0, 8 * MiB);
  await device.write(MiB, new Uint8Array(4096).fill(3));
  expect(await readBytes(device, MiB, 4096)).toEqual(new Uint8Array(4096).fill(3));
});
