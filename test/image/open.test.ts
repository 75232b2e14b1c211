import { spawn } from 'node:child_process';
import { link, mkdir, readFile, readdir, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { openImage } from '#src/backup/image/open';
import { CopyPool } from '#src/backup/pool';
import { verify } from '#src/backup/verify';
import { loadCore } from '#src/core/load';
import { Random } from '#src/runtime/random';
import { KiB, MiB } from '#src/runtime/sizes';
import { randomBytes } from '../support/bytes.js';
import { temporaryDirectory } from '../support/directory.js';
import { attachLoop, run } from '../support/loop-device.js';
import { needs } from '../support/needs.js';
import { testSeed } from '../support/seed.js';
import { contentOf } from './support/commit-loop.js';
import { differs, randomDevice, restoreAll, writeGeneration } from './support/generations.js';

const writing = { write: true, create: true };
const someDevices = [randomDevice(new Random(1), 'a', 200 * KiB, 4 * KiB, 0.5)];

describe('a file', () => {
  test('that does not exist is made only when asked, and is there without a trace of the making', async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('new.image');
    for (const options of [{}, { write: true }, { create: true }]) {
      await expect(openImage(path, options)).rejects.toMatchObject({ code: 'DEVICE_NOT_FOUND' });
    }
    expect(await readdir(directory.path)).toEqual([]);
    {
      await using image = await openImage(path, writing);
      await writeGeneration(image, someDevices);
    }
    expect(await readdir(directory.path)).toEqual(['new.image']);
    await using image = await openImage(path);
    expect(differs((await restoreAll(image)).get(1), someDevices)).toBeUndefined();
    expect(() => image.beginGeneration()).toThrow(expect.objectContaining({ code: 'READ_ONLY' }) as Error);
  });

  test('that is empty counts as missing; its name may be a symbolic link', async () => {
    await using directory = temporaryDirectory();
    await writeFile(directory.file('empty'), '', { mode: 0o600 });
    await symlink('empty', directory.file('link'));
    await expect(openImage(directory.file('link'), { write: true })).rejects.toMatchObject({
      code: 'NOT_AN_IMAGE',
    });
    {
      await using image = await openImage(directory.file('link'), writing);
      await writeGeneration(image, someDevices);
    }
    await using image = await openImage(directory.file('empty'));
    expect(image.generations).toHaveLength(1);
    expect((await readdir(directory.path)).sort()).toEqual(['empty', 'link']);
    expect((await stat(directory.file('empty'))).mode & 0o777).toBe(0o600);
  });

  test('that is something else is refused and left as it is', async () => {
    await using directory = temporaryDirectory();
    const contents = {
      text: Buffer.from('not an image'),
      random: randomBytes(MiB, 1),
      zeros: new Uint8Array(200 * KiB),
    };
    for (const [name, content] of Object.entries(contents)) {
      const path = directory.file(name);
      await writeFile(path, content);
      const { mtimeMs } = await stat(path);
      for (const options of [{}, writing, { ...writing, initialise: true }]) {
        await expect(openImage(path, options)).rejects.toMatchObject({ code: 'NOT_AN_IMAGE' });
      }
      expect(Buffer.compare(await readFile(path), content)).toBe(0);
      expect((await stat(path)).mtimeMs).toBe(mtimeMs);
    }
    await mkdir(directory.file('folder'));
    await expect(openImage(directory.file('folder'), writing)).rejects.toMatchObject({
      code: 'NOT_AN_IMAGE',
    });
  });

  test('that was cut off is refused', async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('image');
    {
      await using image = await openImage(path, writing);
      await writeGeneration(image, someDevices);
    }
    await truncate(path, (await stat(path)).size - 1);
    await expect(openImage(path, writing)).rejects.toMatchObject({ code: 'IMAGE_TRUNCATED' });
  });

  test('that cannot be made is an error that names it, and leaves nothing', async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('no/such/folder/image');
    await expect(openImage(path, writing)).rejects.toMatchObject({
      message: expect.stringContaining(path) as string,
    });
    expect(await readdir(directory.path)).toEqual([]);
  });
});

describe('the lock', () => {
  test('lets one write, or many read', async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('image');
    {
      await using _writer = await openImage(path, writing);
      await expect(openImage(path, writing)).rejects.toMatchObject({ code: 'DEVICE_BUSY' });
      await expect(openImage(path)).rejects.toMatchObject({ code: 'DEVICE_BUSY' });
      await link(path, directory.file('other name'));
      await expect(openImage(directory.file('other name'))).rejects.toMatchObject({ code: 'DEVICE_BUSY' });
    }
    {
      await using _one = await openImage(path);
      await using _two = await openImage(path);
      await expect(openImage(path, writing)).rejects.toMatchObject({ code: 'DEVICE_BUSY' });
    }
    await (await openImage(path, writing)).close();
  });

  test('is given up when the image turns out not to be one', async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('image');
    await writeFile(path, 'something');
    await expect(openImage(path, writing)).rejects.toMatchObject({ code: 'NOT_AN_IMAGE' });
    await writeFile(path, '');
    await (await openImage(path, writing)).close();
  });

  test('of one that makes the image leaves the other the image that was made', async () => {
    await using directory = temporaryDirectory();
    for (const content of [undefined, '']) {
      const path = directory.file(`image ${content}`);
      if (content !== undefined) await writeFile(path, content);
      const outcomes = await Promise.allSettled([1, 2, 3, 4].map(() => openImage(path, writing)));
      const [opened, ...more] = outcomes.filter((outcome) => outcome.status === 'fulfilled');
      expect(more).toEqual([]);
      for (const outcome of outcomes) {
        if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'DEVICE_BUSY' });
      }
      await opened?.value.close();
      expect((await readdir(directory.path)).filter((name) => name.endsWith('.partial'))).toEqual([]);
    }
  });
});

test('a process that is killed at any moment leaves all that it promised', async () => {
  const random = new Random(testSeed());
  const core = await loadCore();
  await using pool = await CopyPool.start(core, 1);
  await using directory = temporaryDirectory();
  const path = directory.file('image');
  const program = fileURLToPath(new URL('support/commit-loop.ts', import.meta.url));
  let promised = 0;
  for (let i = 0; i < 6; i++) {
    const child = spawn(process.execPath, ['--import', 'tsx', program, path], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const lines: string[] = [];
    child.stdout.on('data', (chunk: Buffer) => lines.push(chunk.toString()));
    const ended = new Promise((resolve) => child.on('close', resolve));
    // From the first promise of this process, which takes a while to start; once also before that.
    if (i > 0) await Promise.race([new Promise((resolve) => child.stdout.once('data', resolve)), ended]);
    await delay(random.below(i === 0 ? 900 : 60));
    child.kill('SIGKILL');
    await ended;
    promised = Math.max(promised, ...lines.join('').split('\n').filter(Boolean).map(Number));

    if (i === 0 && promised === 0 && !(await readdir(directory.path)).includes('image')) continue;
    await using image = await openImage(path);
    expect(image.warnings).toEqual([]);
    expect([promised, promised + 1]).toContain(image.generations.length);
    expect((await verify(image, { pool })).ok).toBe(true);
    for (const [generation, devices] of await restoreAll(image)) {
      expect(differs(devices, contentOf(generation)), `generation ${generation}`).toBeUndefined();
    }
  }
  expect(promised).toBeGreaterThan(3);
});

describe('a block device', () => {
  const rooted = needs('root', '/dev/loop-control', 'losetup', 'mke2fs');

  rooted('is made an image only when asked, and only if it holds nothing', async () => {
    await using directory = temporaryDirectory();
    const file = directory.file('disk');
    await writeFile(file, '');
    await truncate(file, 16 * MiB);
    await using loop = await attachLoop(file);
    for (const options of [{}, writing, { initialise: true }]) {
      await expect(openImage(loop.path, options)).rejects.toMatchObject({ code: 'IMAGE_UNINITIALISED' });
    }
    {
      await using image = await openImage(loop.path, { write: true, initialise: true });
      await writeGeneration(image, someDevices);
      await expect(openImage(loop.path)).rejects.toMatchObject({ code: 'DEVICE_BUSY' });
    }
    // To ask for it again does no harm.
    await using image = await openImage(loop.path, { write: true, initialise: true });
    expect(differs((await restoreAll(image)).get(1), someDevices)).toBeUndefined();
    await expect(
      writeGeneration(image, [randomDevice(new Random(2), 'big', 20 * MiB, MiB, 1)]),
    ).rejects.toMatchObject({
      code: 'TARGET_FULL',
    });
    expect(await writeGeneration(image, someDevices)).toBe(2);
  });

  rooted('that holds something else is refused and left as it is', async () => {
    await using directory = temporaryDirectory();
    const file = directory.file('disk');
    await writeFile(file, '');
    await truncate(file, 16 * MiB);
    await run('mke2fs', '-q', '-F', file);
    const before = await readFile(file);
    {
      await using loop = await attachLoop(file);
      const opening = openImage(loop.path, { write: true, create: true, initialise: true });
      await expect(opening).rejects.toMatchObject({
        code: 'NOT_AN_IMAGE',
        message: expect.stringContaining('wipefs') as string,
      });
    }
    expect(Buffer.compare(await readFile(file), before)).toBe(0);

    // A mark at the very end, as partition tables and RAID have it, counts as well.
    await writeFile(file, Buffer.concat([new Uint8Array(16 * MiB - 1), Buffer.of(1)]));
    await using loop = await attachLoop(file);
    await expect(openImage(loop.path, { write: true, initialise: true })).rejects.toMatchObject({
      code: 'NOT_AN_IMAGE',
    });
  });
});
