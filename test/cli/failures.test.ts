import { open, readdir, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { beforeAll, describe, expect, test } from 'vitest';
import { loadCore } from '#src/core/load';
import { KiB, MiB } from '#src/runtime/sizes';
import { runCli } from '../support/cli.js';
import { differenceAt } from '../support/bytes.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/directory.js';
import { attachLoop, mount, run } from '../support/loop-device.js';
import { needs } from '../support/needs.js';
import { makePlainDisk } from './disk.js';
import { document, expectDone, expectFailure } from './expectations.js';

const BLOCK = 64 * KiB;

/** A directory with the disk `a.img`, 3 MiB of data and 1 MiB of hole, and a backup of it in `x`. */
async function withImage(): Promise<TemporaryDirectory & { image: string; disk: string; data: Uint8Array }> {
  const directory = temporaryDirectory();
  const disk = directory.file('a.img');
  const image = directory.file('x');
  const data = await makePlainDisk(disk);
  expectDone(await runCli(['backup', '--to', image, '--device', disk]));
  return { ...directory, image, disk, data };
}

/** Changes one byte of a file. */
async function flip(path: string, offset: number): Promise<void> {
  await using file = await open(path, 'r+');
  const byte = new Uint8Array(1);
  await file.read(byte, 0, 1, offset);
  await file.write(Uint8Array.of((byte[0] ?? 0) ^ 1), 0, 1, offset);
}

describe('what should be an image', () => {
  const readers = ['list', 'show', 'verify', 'restore --to-dir out'];

  test.each(readers)('%s: is not there', async (command) => {
    const result = await runCli([...command.split(' '), 'nowhere/x']);
    expect(expectFailure(result, 'DEVICE_NOT_FOUND')).toContain('nowhere/x');
  });

  test.each(readers)('%s: is something else', async (command) => {
    await using directory = temporaryDirectory();
    await makePlainDisk(directory.file('x'));
    const result = await runCli([...command.split(' '), 'x'], { cwd: directory.path });
    expect(expectFailure(result, 'NOT_AN_IMAGE')).toContain('x is not a cofferdam backup image');
  });

  test('backup: is something else, and stays as it was', async () => {
    await using directory = temporaryDirectory();
    await makePlainDisk(directory.file('a'));
    const before = await makePlainDisk(directory.file('x'));
    const result = await runCli(['backup', '--to', 'x', '--device', 'a'], { cwd: directory.path });
    expectFailure(result, 'NOT_AN_IMAGE');
    const after = await readFile(directory.file('x'));
    expect(differenceAt(after.subarray(0, before.length), before)).toBeUndefined();
  });

  test('was cut off', async () => {
    await using directory = await withImage();
    await truncate(directory.image, 2 * MiB);
    for (const command of ['list', 'verify']) {
      const result = await runCli([command, directory.image]);
      expect(expectFailure(result, 'IMAGE_TRUNCATED')).toContain(`ends at ${2 * MiB}`);
    }
  });

  test('was written by a newer version', async () => {
    await using directory = await withImage();
    await using file = await open(directory.image, 'r+');
    // docs/FORMAT.md: the lowest version that a reader must know, at 20; BLAKE3 of bytes 0 to 479, at 480.
    const superblock = new Uint8Array(512);
    for (const offset of [0, 64 * KiB]) {
      await file.read(superblock, 0, 512, offset);
      if (superblock[0] === 0) continue;
      superblock.set([7, 0, 0, 0], 20);
      superblock.set((await loadCore()).hash('blake3', superblock.subarray(0, 480)), 480);
      await file.write(superblock, 0, 512, offset);
    }
    const result = await runCli(['list', directory.image]);
    expect(expectFailure(result, 'IMAGE_VERSION')).toContain('version 7');
  });

  test('a damaged superblock is a warning where the other one serves', async () => {
    await using directory = await withImage();
    expectDone(await runCli(['backup', '--to', directory.image, '--device', directory.disk]));
    const slots = await superblockOffsets(directory.image);
    await flip(directory.image, (slots[0] ?? 0) + 60);
    const result = await runCli(['list', directory.image, '--json']);
    expect(result.exitCode).toBe(0);
    expect(result.stderr).toMatch(/^cofferdam: warning: .*superblock/);
    expect(document(result)['warnings']).toEqual([expect.stringContaining('superblock')]);

    // What verify is for is told once, as its result.
    const verified = await runCli(['verify', directory.image]);
    expect(expectFailure(verified, 'IMAGE_CORRUPT')).toContain('1 fault in superblocks');
    expect(`${verified.stdout}${verified.stderr}`.match(/is damaged \(/g)).toHaveLength(1);
    expect(verified.stdout).toContain('superblock slot');
  });
});

/** Where the image has its superblocks, found by their magic. */
async function superblockOffsets(image: string): Promise<number[]> {
  const bytes = await readFile(image);
  const offsets: number[] = [];
  let at = bytes.indexOf('cofferdam image\n');
  while (at !== -1) {
    offsets.push(at);
    at = bytes.indexOf('cofferdam image\n', at + 1);
  }
  return offsets;
}

describe('a corrupt block', () => {
  /** Bytes 20 * 64 KiB to 21 * 64 KiB of the device. */
  const bad = { offsetBytes: 20 * BLOCK, lengthBytes: BLOCK };
  let directory: Awaited<ReturnType<typeof withImage>>;

  beforeAll(async () => {
    directory = await withImage();
    const block = Buffer.from(directory.data.subarray(bad.offsetBytes, bad.offsetBytes + BLOCK));
    const offset = (await readFile(directory.image)).indexOf(block);
    expect(offset).toBeGreaterThan(0);
    await flip(directory.image, offset + 1000);
    return () => directory[Symbol.asyncDispose]();
  });

  test('verify finds and names it', async () => {
    const result = await runCli(['verify', directory.image]);
    const line = expectFailure(result, 'BLOCK_CORRUPT');
    expect(line).toContain(
      `bytes ${bad.offsetBytes}-${bad.offsetBytes + BLOCK - 1} of device a in generation 1`,
    );
    expect(result.stdout).toContain(
      `generation 1, device a, bytes ${bad.offsetBytes}-${bad.offsetBytes + BLOCK - 1}: `,
    );
    const json = await runCli(['verify', directory.image, '--json']);
    expect(json.exitCode).toBe(1);
    expect(document(json)).toMatchObject({
      ok: false,
      generations: [{ devices: [{ id: 'a', goodBytes: 4 * MiB - BLOCK, bad: [bad] }] }],
      error: { code: 'BLOCK_CORRUPT', device: 'a', ...bad },
    });
  });

  test('restore stops at it and leaves nothing', async () => {
    const result = await runCli(['restore', directory.image, '--to-dir', directory.file('out'), '--json']);
    expectFailure(result, 'BLOCK_CORRUPT');
    expect(document(result)).toMatchObject({ error: { code: 'BLOCK_CORRUPT', device: 'a', ...bad } });
    await expect(stat(directory.file('out/a.img'))).rejects.toThrow('ENOENT');
  });

  test('restore --skip-bad goes on past it and lists it', async () => {
    const target = directory.file('skipped');
    const args = ['restore', directory.image, '--device', `a=${target}`, '--skip-bad'];
    const result = await runCli(args);
    expectFailure(result, 'BLOCK_CORRUPT');
    expect(result.stdout).toContain(
      `lost: device a, bytes ${bad.offsetBytes}-${bad.offsetBytes + BLOCK - 1}: `,
    );
    const expected = Buffer.alloc(4 * MiB);
    expected.set(directory.data);
    expected.fill(0, bad.offsetBytes, bad.offsetBytes + BLOCK);
    expect(differenceAt(await readFile(target), expected)).toBeUndefined();
    const json = await runCli([...args, '--force', '--json']);
    expect(document(json)).toMatchObject({
      devices: [{ id: 'a', bad: [bad] }],
      error: { code: 'BLOCK_CORRUPT' },
    });
  });
});

describe('targets and sources', () => {
  test('a source that is not there leaves no image', async () => {
    await using directory = temporaryDirectory();
    const result = await runCli(['backup', '--to', 'x', '--device', 'a.img'], { cwd: directory.path });
    expectFailure(result, 'DEVICE_NOT_FOUND');
    await expect(stat(directory.file('x'))).rejects.toThrow('ENOENT');
  });

  test('a source that is a directory', async () => {
    await using directory = temporaryDirectory();
    const result = await runCli(['backup', '--to', 'x', '--device', `d=${directory.path}`], {
      cwd: directory.path,
    });
    expect(expectFailure(result, 'DEVICE_UNSUPPORTED')).toContain(directory.path);
  });

  test('the image as its own source', async () => {
    await using directory = await withImage();
    const { image } = directory;
    const into = await runCli(['backup', '--to', image, '--device', directory.disk, `i=${image}`]);
    expect(expectFailure(into, 'SOURCE_IS_TARGET')).toContain('device i');
    const over = await runCli(['restore', image, '--device', `a=${image}`, '--force']);
    expectFailure(over, 'SOURCE_IS_TARGET');
    expectDone(await runCli(['verify', image]));
  });

  test('IDs and generations that do not exist', async () => {
    await using directory = await withImage();
    const { image } = directory;
    const device = await runCli(['restore', image, '--device', `b=${directory.file('out')}`, '--json']);
    expect(expectFailure(device, 'UNKNOWN_DEVICE')).toContain('it has a');
    expect(document(device)).toMatchObject({ error: { code: 'UNKNOWN_DEVICE', device: 'b' } });
    for (const command of [['show'], ['verify'], ['restore', '--to-dir', directory.file('out')]]) {
      const result = await runCli([...command, image, '--generation', '2']);
      expectFailure(result, 'UNKNOWN_GENERATION');
    }
  });

  test('a target that exists is kept without --force', async () => {
    await using directory = await withImage();
    const target = directory.file('out');
    await writeFile(target, 'precious');
    const result = await runCli(['restore', directory.image, '--device', `a=${target}`]);
    expect(expectFailure(result, 'TARGET_EXISTS')).toContain('--force');
    expect(await readFile(target, 'utf8')).toBe('precious');
  });

  test('an image in a folder that does not exist', async () => {
    await using directory = temporaryDirectory();
    await makePlainDisk(directory.file('a.img'));
    const result = await runCli(['backup', '--to', 'no/x', '--device', 'a.img'], { cwd: directory.path });
    expect(expectFailure(result, 'DEVICE_NOT_FOUND')).toContain(': no/x: there is no folder no; make it');
  });

  test.each([
    [['restore', 'x', '--device', 'a=no/a'], 'DEVICE_NOT_FOUND', 'no/a: there is no folder no; make it'],
    [['restore', 'x', '--to-dir', 'a.img'], 'TARGET_EXISTS', 'a.img: there is a file where a folder'],
    [
      ['open', 'x', '--listen', 'nbd+unix:///?socket=no/s'],
      'DEVICE_NOT_FOUND',
      '/no/s: there is no folder /',
    ],
    [
      ['open', 'x', '--listen', 'nbd+unix:///?socket=s', '--writable', '--overlay', 'no/o'],
      'DEVICE_NOT_FOUND',
      'no/o: there is no folder no',
    ],
    [
      ['open', 'two', '--listen', 'nbd+unix:///?socket=s', '--writable', '--overlay', 'a.img'],
      'TARGET_EXISTS',
      'a.img: there is a file where a folder',
    ],
    [['serve', 'cluster.yaml'], 'DEVICE_NOT_FOUND', '/no/c: there is no folder /'],
  ])('%j says what to do about the folder', async (args, code, message) => {
    await using directory = await withImage();
    const options = { cwd: directory.path };
    if (args[1] === 'two') {
      await makePlainDisk(directory.file('b.img'));
      expectDone(await runCli(['backup', '--to', 'two', '--device', 'a.img', 'b.img'], options));
    }
    await writeFile(
      directory.file('cluster.yaml'),
      'control: no/c\nservers: [{ id: a, device: { kind: memory, size: 1MiB } }]\n',
    );
    const before = await readdir(directory.path);
    expect(expectFailure(await runCli(args, options), code)).toContain(message);
    expect(await readdir(directory.path)).toEqual(before);
  });

  needs('root')('a target that is full', async () => {
    await using directory = await withImage();
    await run('mkdir', directory.file('small'));
    await using _mount = await mount('-t', 'tmpfs', '-o', 'size=2M', 'tmpfs', directory.file('small'));
    const backup = await runCli(['backup', '--to', directory.file('small/x'), '--device', directory.disk]);
    const line = expectFailure(backup, 'TARGET_FULL');
    expect(line).toContain(`TARGET_FULL: ${directory.file('small/x')}: `);
    expect(line).toContain('make room there');
    const restore = await runCli(['restore', directory.image, '--to-dir', directory.file('small/out')]);
    expect(expectFailure(restore, 'TARGET_FULL')).toContain(`TARGET_FULL: ${directory.file('small/out')}/`);
    expect(await run('find', directory.file('small'), '-name', '*.img')).toBe('');
  });

  needs('root', '/dev/loop-control')('a block device that is too small', async () => {
    await using directory = await withImage();
    await run('truncate', '-s', '1M', directory.file('small'));
    await using small = await attachLoop(directory.file('small'));
    const result = await runCli(['restore', directory.image, '--device', `a=${small.path}`, '--force']);
    expectFailure(result, 'TARGET_TOO_SMALL');
  });
});
