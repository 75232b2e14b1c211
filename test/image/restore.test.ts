import { writeFileSync } from 'node:fs';
import { link, mkdir, open, readFile, readdir, stat, symlink, writeFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { openImage } from '#src/backup/image/open';
import { restore, type RestoreResult } from '#src/backup/restore';
import { Random } from '#src/runtime/random';
import { KiB, MiB } from '#src/runtime/sizes';
import { differenceAt, randomBytes } from '../support/bytes.js';
import { attachLoop, mount, run } from '../support/loop-device.js';
import { needs } from '../support/needs.js';
import { testSeed } from '../support/seed.js';
import {
  changed,
  differs,
  randomDevice,
  restoreAll,
  writeGeneration,
  type DeviceContent,
} from './support/generations.js';
import { damage, storedBlocks } from './support/places.js';
import { bench, setUp, type Bench } from './support/stores.js';

/** Two generations of three devices, one of them nothing but a hole. */
async function twoGenerations({ image }: Bench): Promise<DeviceContent[][]> {
  const random = new Random(testSeed());
  const first = [
    randomDevice(random, 'a', 3 * MiB + 100, 4 * KiB, 0.3),
    randomDevice(random, 'b', 20 * MiB, 64 * KiB, 0.1),
    { id: 'hole', blockSizeBytes: 4096, bytes: new Uint8Array(5 * MiB) },
  ];
  const second = first.map((device) => changed(random, device, 10));
  // Whatever the seed, one whole leaf is zeros.
  for (const [device] of [first, second]) device?.bytes.fill(0, MiB, 2 * MiB);
  await writeGeneration(image, first);
  await writeGeneration(image, second, { base: { record: await image.record(1), devices: first } });
  return [first, second];
}

const contentOf = (devices: DeviceContent[] | undefined, id: string): Uint8Array =>
  devices?.find((device) => device.id === id)?.bytes ?? new Uint8Array();

async function expectFile(path: string, content: Uint8Array): Promise<void> {
  expect(differenceAt(await readFile(path), content), path).toBeUndefined();
}

/** The content with zeros where something could not be restored. */
function without(
  content: Uint8Array,
  ranges: readonly { offsetBytes: number; lengthBytes: number }[],
): Uint8Array {
  const copy = content.slice();
  for (const { offsetBytes, lengthBytes } of ranges) copy.fill(0, offsetBytes, offsetBytes + lengthBytes);
  return copy;
}

describe.each(bench)('restore through %s', (kind) => {
  test('to a directory gives every device of any generation, sparse', async () => {
    await using tools = await setUp(kind);
    const { image, pool, directory } = tools;
    const generations = await twoGenerations(tools);
    for (const [i, devices] of generations.entries()) {
      const target = directory.file(`generation/${i + 1}`);
      const seen: number[] = [];
      const result = await restore(image, {
        generation: i + 1,
        targets: { directory: target },
        pool,
        onProgress: (all) => seen.push(...all.map(({ doneBytes, totalBytes }) => totalBytes - doneBytes)),
      });
      expect(result).toEqual<RestoreResult>({
        generation: i + 1,
        devices: devices.map(({ id, bytes }) => ({
          id,
          path: `${target}/${id}.img`,
          sizeBytes: bytes.length,
          bad: [],
        })),
      });
      expect((await readdir(target)).sort()).toEqual(['a.img', 'b.img', 'hole.img']);
      for (const { id, bytes } of devices) await expectFile(`${target}/${id}.img`, bytes);
      expect(seen.slice(-3)).toEqual([0, 0, 0]);
      // A device of which a tenth is there takes less than half of its size, whatever the file system rounds to.
      expect((await stat(`${target}/b.img`)).blocks * 512).toBeLessThan(10 * MiB);
    }
  });

  test('to named targets takes those devices alone', async () => {
    await using tools = await setUp(kind);
    const { image, pool, directory } = tools;
    const [, second] = await twoGenerations(tools);
    await mkdir(directory.file('out'));
    const path = directory.file('out/disk');
    const result = await restore(image, { targets: new Map([['a', path]]), pool });
    expect(result.devices.map(({ id }) => id)).toEqual(['a']);
    await expectFile(path, contentOf(second, 'a'));
    expect(await readdir(directory.file('out'))).toEqual(['disk']);
  });

  test('onto files that exist needs force, and leaves nothing of what they held', async () => {
    await using tools = await setUp(kind);
    const { image, pool, directory } = tools;
    const [, second] = await twoGenerations(tools);
    const path = directory.file('disk');
    for (const length of [100, 3 * MiB + 100, 30 * MiB]) {
      const before = randomBytes(length, 5);
      await writeFile(path, before);
      const { ino } = await stat(path);
      const targets = new Map([['a', path]]);
      await expect(restore(image, { targets, pool })).rejects.toMatchObject({ code: 'TARGET_EXISTS' });
      await expectFile(path, before);
      await restore(image, { targets, pool, force: true });
      await expectFile(path, contentOf(second, 'a'));
      expect((await stat(path)).ino).toBe(ino);
    }
  });

  test('stops at a damaged block, names it, and leaves no file; or goes on and tells exactly what is missing', async () => {
    await using tools = await setUp(kind);
    const { image, pool, directory, store } = tools;
    const [, second] = await twoGenerations(tools);
    const blocks = await storedBlocks(image, 2, 'a');
    const bad = [blocks[4], blocks[5], blocks.at(-1)].filter((block) => block !== undefined);
    for (const { offset } of bad) await damage(store, offset + 3);
    const names = new Set(bad.map(({ block }) => block * 4096));

    const target = directory.file('out');
    const failing = restore(image, { targets: { directory: target }, pool });
    const error: unknown = await failing.catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: 'BLOCK_CORRUPT', device: 'a' });
    expect(names).toContain((error as { offsetBytes: number }).offsetBytes);
    expect(await readdir(target)).toEqual([]);

    const { devices } = await restore(image, { targets: { directory: target }, pool, skipBad: true });
    const missing = devices[0]?.bad ?? [];
    const size = 3 * MiB + 100;
    const isMissing = (block: number): boolean =>
      missing.some(
        ({ offsetBytes, lengthBytes }) => offsetBytes <= block && block < offsetBytes + lengthBytes,
      );
    for (let block = 0; block < size; block += 4096)
      expect(isMissing(block), `block at ${block}`).toBe(names.has(block));
    expect(missing.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0)).toBe(
      [...names].reduce((sum, block) => sum + Math.min(4096, size - block), 0),
    );
    expect(devices.slice(1).map((device) => device.bad)).toEqual([[], []]);
    await expectFile(`${target}/a.img`, without(contentOf(second, 'a'), missing));
    await expectFile(`${target}/b.img`, contentOf(second, 'b'));
  });

  test('goes on past damaged nodes, onto a file that held something else', async () => {
    await using tools = await setUp(kind);
    const { image, pool, directory, store } = tools;
    const content = randomDevice(new Random(1), 'a', 4 * MiB - 9, 4 * KiB, 0.8);
    await writeGeneration(image, [content]);
    const node = await image.blockMap(await image.record(1), 'a').node(0, 3);
    await damage(store, (node?.place.offset ?? 0) + 200);
    const path = directory.file('disk');
    await writeFile(path, randomBytes(4 * MiB, 1));
    const targets = new Map([['a', path]]);
    await expect(restore(image, { targets, pool, force: true })).rejects.toMatchObject({
      code: 'BLOCK_CORRUPT',
      offsetBytes: 3 * MiB,
      lengthBytes: MiB - 9,
      message: expect.stringContaining('overwritten in part') as string,
    });
    const { devices } = await restore(image, { targets, pool, force: true, skipBad: true });
    expect(devices[0]?.bad).toMatchObject([{ offsetBytes: 3 * MiB, lengthBytes: MiB - 9 }]);
    await expectFile(path, without(content.bytes, devices[0]?.bad ?? []));
  });

  test('says of what it has begun to overwrite, and of nothing else, that it has', async () => {
    await using tools = await setUp(kind);
    const { image, pool, directory, store } = tools;
    await twoGenerations(tools);
    const [block] = await storedBlocks(image, 2, 'a');
    await damage(store, block?.offset ?? 0);
    const [first, second] = [directory.file('first'), directory.file('second')];
    for (const path of [first, second]) await writeFile(path, 'what it held');
    const targets = new Map([
      ['a', first],
      ['b', second],
    ]);
    await expect(restore(image, { targets, pool, force: true })).rejects.toMatchObject({
      code: 'BLOCK_CORRUPT',
      message: expect.stringMatching(new RegExp(`; what ${first} held is overwritten in part$`)) as string,
    });
    expect(await readFile(second, 'utf8')).toBe('what it held');
  });

  test('that is cancelled leaves no file', async () => {
    await using tools = await setUp(kind);
    const { image, pool, directory } = tools;
    await writeGeneration(image, [randomDevice(new Random(1), 'a', 40 * MiB, 4 * KiB, 0.05)]);
    const targets = { directory: directory.file('out') };
    await expect(restore(image, { targets, pool, signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'CANCELLED',
    });
    expect(await readdir(targets.directory)).toEqual([]);
    const controller = new AbortController();
    const restoring = restore(image, {
      targets,
      pool,
      signal: controller.signal,
    });
    const watch = setInterval(() => {
      // As soon as there is something to clean up.
      void readdir(targets.directory).then((names) => names.length > 0 && controller.abort());
    }, 1);
    await expect(restoring).rejects.toMatchObject({ code: 'CANCELLED' });
    clearInterval(watch);
    expect(await readdir(targets.directory)).toEqual([]);
  });

  test('to a file whose name somebody else takes meanwhile leaves theirs alone', async () => {
    await using tools = await setUp(kind);
    const { image, pool, directory } = tools;
    await twoGenerations(tools);
    const path = directory.file('out');
    let isTaken = false;
    const restoring = restore(image, {
      targets: new Map([['b', path]]),
      pool,
      // It is called once more when all is written and nothing is published; whichever call is first is in between.
      onProgress: () => {
        if (!isTaken) writeFileSync(path, 'mine', { flag: 'wx' });
        isTaken = true;
      },
    });
    await expect(restoring).rejects.toMatchObject({ code: 'TARGET_EXISTS' });
    expect(await readFile(path, 'utf8')).toBe('mine');
    expect((await readdir(directory.path)).filter((name) => name.endsWith('.partial'))).toEqual([]);
  });
});

describe('a restore refuses', () => {
  test('IDs and generations that are not there, naming those that are', async () => {
    await using tools = await setUp('native');
    const { image, pool, directory } = tools;
    await twoGenerations(tools);
    const path = directory.file('out');
    await expect(
      restore(image, {
        targets: new Map([
          ['a', path],
          ['c', path],
        ]),
        pool,
      }),
    ).rejects.toMatchObject({
      code: 'UNKNOWN_DEVICE',
      message: expect.stringContaining('a, b, hole') as string,
    });
    await expect(
      restore(image, { generation: 9, targets: new Map([['a', path]]), pool }),
    ).rejects.toMatchObject({
      code: 'UNKNOWN_GENERATION',
    });
    await expect(restore(image, { targets: new Map(), pool })).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
    });
    expect(await readdir(directory.path)).toEqual(['image']);
  });

  test('the image itself as a target, under whatever name', async () => {
    await using tools = await setUp('native');
    const { image, pool, directory } = tools;
    await twoGenerations(tools);
    const path = directory.file('image');
    await link(path, directory.file('hard'));
    await symlink('image', directory.file('soft'));
    const before = await readFile(path);
    for (const name of ['image', 'hard', 'soft']) {
      const targets = new Map([['a', directory.file(name)]]);
      await expect(restore(image, { targets, pool, force: true })).rejects.toMatchObject({
        code: 'SOURCE_IS_TARGET',
      });
    }
    await expectFile(path, before);
  });

  test('one target for two devices', async () => {
    await using tools = await setUp('native');
    const { image, pool, directory } = tools;
    await twoGenerations(tools);
    const targets = (one: string, other: string): Map<string, string> =>
      new Map([
        ['a', directory.file(one)],
        ['b', directory.file(other)],
      ]);
    await expect(restore(image, { targets: targets('out', './out'), pool })).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
    });
    await writeFile(directory.file('file'), '');
    await link(directory.file('file'), directory.file('same'));
    const options = { targets: targets('file', 'same'), pool, force: true };
    await expect(restore(image, options)).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
  });

  test('a file that is in use, before it touches any other', async () => {
    await using tools = await setUp('native');
    const { image, pool, directory } = tools;
    await twoGenerations(tools);
    await using _inUse = await openImage(directory.file('other'), { write: true, create: true });
    await writeFile(directory.file('first'), 'precious');
    const targets = new Map([
      ['a', directory.file('first')],
      ['b', directory.file('other')],
    ]);
    await expect(restore(image, { targets, pool, force: true })).rejects.toMatchObject({
      code: 'DEVICE_BUSY',
    });
    expect(await readFile(directory.file('first'), 'utf8')).toBe('precious');
  });
});

describe('onto a block device', () => {
  const rooted = needs('root', '/dev/loop-control', 'losetup', 'mke2fs');

  async function loopOf(
    directory: { file(name: string): string },
    content: Uint8Array,
  ): ReturnType<typeof attachLoop> {
    await writeFile(directory.file('disk'), content);
    return attachLoop(directory.file('disk'));
  }

  async function contentOfDevice(path: string): Promise<Uint8Array> {
    await using handle = await open(path);
    return await handle.readFile();
  }

  for (const kind of bench) {
    rooted(`a restore through ${kind} leaves the device's bytes, and what is past them alone`, async () => {
      await using tools = await setUp(kind);
      const { image, pool, directory, store } = tools;
      const [, second] = await twoGenerations(tools);
      const before = randomBytes(4 * MiB, 3);
      await using loop = await loopOf(directory, before);
      const targets = new Map([['a', loop.path]]);
      await expect(restore(image, { targets, pool })).rejects.toMatchObject({ code: 'TARGET_EXISTS' });
      expect(differenceAt(await contentOfDevice(loop.path), before)).toBeUndefined();

      await restore(image, { targets, pool, force: true });
      const expected = before.slice();
      expected.set(contentOf(second, 'a'));
      expect(differenceAt(await contentOfDevice(loop.path), expected)).toBeUndefined();

      const [block] = await storedBlocks(image, 2, 'a');
      await damage(store, block?.offset ?? 0);
      const { devices } = await restore(image, { targets, pool, force: true, skipBad: true });
      expect(devices[0]?.bad).toMatchObject([{ offsetBytes: (block?.block ?? 0) * 4096 }]);
      expected.set(without(contentOf(second, 'a'), devices[0]?.bad ?? []));
      expect(differenceAt(await contentOfDevice(loop.path), expected)).toBeUndefined();
    });
  }

  rooted('that is too small, or mounted, or stands on the image, is refused', async () => {
    await using tools = await setUp('native');
    const { image, pool, directory } = tools;
    await twoGenerations(tools);
    {
      await using small = await loopOf(directory, new Uint8Array(3 * MiB));
      const targets = new Map([['a', small.path]]);
      await expect(restore(image, { targets, pool, force: true })).rejects.toMatchObject({
        code: 'TARGET_TOO_SMALL',
      });
    }
    {
      await using mounted = await loopOf(directory, new Uint8Array(24 * MiB));
      await run('mke2fs', '-q', mounted.path);
      await mkdir(directory.file('mnt'));
      await using _mount = await mount(mounted.path, directory.file('mnt'));
      const targets = new Map([['b', mounted.path]]);
      await expect(restore(image, { targets, pool, force: true })).rejects.toMatchObject({
        code: 'DEVICE_BUSY',
        message: expect.stringContaining('mounted') as string,
      });
    }
    await using onImage = await attachLoop(directory.file('image'));
    const targets = new Map([['a', onImage.path]]);
    await expect(restore(image, { targets, pool, force: true })).rejects.toMatchObject({
      code: 'SOURCE_IS_TARGET',
    });
  });
});

test('what is neither a file nor a block device is refused', async () => {
  await using tools = await setUp('native');
  const { image, pool } = tools;
  await writeGeneration(image, [randomDevice(new Random(1), 'a', 10_000, 4096, 1)]);
  const targets = new Map([['a', '/dev/full']]);
  await expect(restore(image, { targets, pool })).rejects.toMatchObject({ code: 'TARGET_EXISTS' });
  await expect(restore(image, { targets, pool, force: true })).rejects.toMatchObject({
    code: 'DEVICE_UNSUPPORTED',
  });
});

for (const kind of bench) {
  needs('root', 'mount')(`a file system without room is TARGET_FULL, through ${kind}`, async () => {
    await using tools = await setUp(kind);
    const { image, pool, directory } = tools;
    const devices = [randomDevice(new Random(1), 'a', 6 * MiB, 4 * KiB, 1)];
    await writeGeneration(image, devices);
    const small = directory.file('small');
    await mkdir(small);
    await using _mount = await mount('-t', 'tmpfs', '-o', 'size=2m', 'none', small);
    const targets = new Map([['a', `${small}/a.img`]]);
    await expect(restore(image, { targets, pool })).rejects.toMatchObject({ code: 'TARGET_FULL' });
    expect(await readdir(small)).toEqual([]);

    await using second = await openImage(`${small}/image`, { write: true, create: true });
    await expect(writeGeneration(second, devices)).rejects.toMatchObject({ code: 'TARGET_FULL' });
    const fitting = [randomDevice(new Random(2), 'a', MiB, 4 * KiB, 0.5)];
    expect(await writeGeneration(second, fitting)).toBe(1);
    expect(differs((await restoreAll(second)).get(1), fitting)).toBeUndefined();
  });
}
