import { readFile, stat } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { openImage } from '#src/backup/image/open';
import type { GenerationRecord } from '#src/backup/image/record';
import { formatDuration } from '#src/runtime/sizes';
import { runCli } from '../support/cli.js';
import { differenceAt } from '../support/bytes.js';
import { temporaryDirectory } from '../support/directory.js';
import { attachLoop, run } from '../support/loop-device.js';
import { needs } from '../support/needs.js';
import { makeFileSystem, makePlainDisk } from './disk.js';
import { document, expectDone } from './expectations.js';

async function expectSameFile(actual: string, expected: string): Promise<void> {
  expect(differenceAt(await readFile(actual), await readFile(expected))).toBeUndefined();
}

describe('file systems', () => {
  needs('mke2fs', 'e2fsck')('come back from an image as they were, sparse and clean', async () => {
    await using directory = temporaryDirectory();
    const [a, b] = [directory.file('a.img'), directory.file('b.img')];
    const image = directory.file('x.cofferdam');
    await makeFileSystem(a);
    await makeFileSystem(b);

    const backup = await runCli(['backup', '--to', image, '--device', a, `log=${b}`]);
    expectDone(backup);
    expect(backup.stdout).toContain(`Generation 1 of ${image}: 2 devices, 128 MiB`);
    expect(backup.stdout).toContain('all devices are as of one instant');

    const restored = await runCli(['restore', image, '--to-dir', directory.file('out')]);
    expectDone(restored);
    expect(restored.stdout).toMatch(/^log +64\.0 MiB +\S+\/out\/log\.img +complete$/m);
    await expectSameFile(directory.file('out/a.img'), a);
    await expectSameFile(directory.file('out/log.img'), b);
    await run('e2fsck', '-fn', directory.file('out/a.img'));
    const { blocks, size } = await stat(directory.file('out/a.img'));
    expect(blocks * 512).toBeLessThan(size / 2);
  });
});

describe('backup', () => {
  test.each([
    [[], 'snapshot', 'group'],
    [['--strategy', 'hold'], 'hold', 'group'],
    [['--strategy', 'rolling'], 'rolling', 'group'],
    [['--strategy', 'rolling', '--no-closing-cut'], 'rolling', 'device'],
  ])('%j makes a generation that restores to the same bytes', async (options, strategy, consistency) => {
    await using directory = temporaryDirectory();
    const [a, b] = [directory.file('a.img'), directory.file('b.img')];
    const image = directory.file('x.cofferdam');
    await makePlainDisk(a);
    await makePlainDisk(b, 100_000, 1234);

    const backup = await runCli([
      'backup',
      '--to',
      image,
      '--device',
      a,
      '--device',
      b,
      '--json',
      ...options,
    ]);
    expectDone(backup);
    expect(document(backup)).toMatchObject({
      image,
      generation: 1,
      strategy,
      consistency,
      devices: [
        { id: 'a', sizeBytes: 4 * 2 ** 20 },
        { id: 'b', sizeBytes: 101_234 },
      ],
      cut: { servers: [{ id: 'a', heldWithoutBreak: true }, { id: 'b' }] },
      warnings: [],
    });

    expectDone(await runCli(['restore', image, '--to-dir', directory.file('out')]));
    await expectSameFile(directory.file('out/a.img'), a);
    await expectSameFile(directory.file('out/b.img'), b);
  });

  test('takes the block size, hash, limit and number of workers that it is given', async () => {
    await using directory = temporaryDirectory();
    const image = directory.file('x.cofferdam');
    await makePlainDisk(directory.file('a.img'));
    const options = ['--block-size', '1MiB', '--hash', 'blake3', '--limit', '100MiB/s', '--workers', '1'];
    const more = ['--max-stall', '2.5s'];
    expectDone(
      await runCli(['backup', '--to', image, '--device', directory.file('a.img'), ...options, ...more]),
    );
    const show = await runCli(['show', image, '--json']);
    expect(document(show)).toMatchObject({
      hashAlgorithm: 'blake3',
      devices: [{ id: 'a', blockSizeBytes: 2 ** 20 }],
    });
  });

  test('takes a path with = in it for an ID and a path, unless it begins with ./', async () => {
    await using directory = temporaryDirectory();
    await makePlainDisk(directory.file('a=b.img'));
    const refused = await runCli(['backup', '--to', 'x', '--device', 'a=b.img'], { cwd: directory.path });
    expect(refused.stderr).toContain('DEVICE_NOT_FOUND: b.img');
    const taken = await runCli(['backup', '--to', 'x', '--json', '--device', 'c=./a=b.img'], {
      cwd: directory.path,
    });
    expect(document(taken)).toMatchObject({ devices: [{ id: 'c' }] });
    const bare = await runCli(['backup', '--to', 'x', '--device', './a=b.img'], { cwd: directory.path });
    expect(bare.stderr).toContain('give one yourself, as ID=PATH');
  });

  needs('root', '/dev/loop-control')('uses a block device, after --init', async () => {
    await using directory = temporaryDirectory();
    await makePlainDisk(directory.file('a.img'));
    await run('truncate', '-s', '32M', directory.file('target'));
    await using target = await attachLoop(directory.file('target'));
    await using source = await attachLoop(directory.file('a.img'));
    const args = ['backup', '--to', target.path, '--device', `a=${source.path}`];

    const refused = await runCli(args);
    expect(refused.stderr).toContain('cofferdam: IMAGE_UNINITIALISED: ');
    expect(refused.exitCode).toBe(1);
    expectDone(await runCli([...args, '--init']));
    expectDone(await runCli(args));
    const list = await runCli(['list', target.path, '--json']);
    expect(document(list)['generations']).toHaveLength(2);
    expectDone(await runCli(['restore', target.path, '--device', `a=${directory.file('out')}`]));
    await expectSameFile(directory.file('out'), directory.file('a.img'));
  });
});

test('the stall that a rolling backup tells is that of all its cuts, and show tells the same', async () => {
  await using directory = temporaryDirectory();
  const options = { cwd: directory.path };
  for (const name of ['a.img', 'b.img']) await makePlainDisk(directory.file(name));
  const args = ['--device', 'a.img', 'b.img', '--strategy', 'rolling', '--limit', '12MiB/s'];
  const made = await runCli(['backup', '--to', 'x', ...args, '--json'], options);
  const backup = document(made) as { longestStallMs: number; cut: GenerationRecord['cut'] };
  expect(backup.cut.firstPass?.map(({ id }) => id)).toEqual(['a', 'b']);
  for (const { holdMs } of [...backup.cut.servers, ...(backup.cut.firstPass ?? [])])
    expect(backup.longestStallMs).toBeGreaterThanOrEqual(holdMs);
  const shown = document(await runCli(['show', 'x', '--json'], options));
  expect(shown).toMatchObject({ longestStallMs: backup.longestStallMs, cut: backup.cut });
  const stall = formatDuration(backup.longestStallMs);
  const { stdout } = await runCli(['show', 'x'], options);
  expect(stdout).toContain(`stall        ${stall}, the longest that a write could have waited`);
  for (const { id, holdMs } of backup.cut.firstPass ?? [])
    expect(stdout).toMatch(
      new RegExp(`^  ${id} +\\d+ +${formatDuration(holdMs).replace('.', '\\.')} +0 `, 'm'),
    );
});

describe('an image of two generations', () => {
  test('is listed, shown, verified and restored', async () => {
    await using directory = temporaryDirectory();
    const disk = directory.file('a.img');
    const image = directory.file('x.cofferdam');
    await makePlainDisk(disk);
    await runCli(['backup', '--to', image, '--device', disk]);
    const first = await readFile(disk);
    await run('dd', 'if=/dev/zero', `of=${disk}`, 'bs=1M', 'count=1', 'conv=notrunc');
    await runCli(['backup', '--to', image, '--device', disk, '--strategy', 'rolling', '--no-closing-cut']);

    const list = await runCli(['list', image]);
    expectDone(list);
    expect(list.stdout).toMatch(
      /^ +1 +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC +snapshot +group +1 +4\.0 MiB +3\.0 MiB +[0-9a-f]{12}$/m,
    );
    expect(list.stdout).toMatch(/^ +2 .* rolling +device only +1 +4\.0 MiB +2\.0 MiB +[0-9a-f]{12}$/m);
    const entries = document(await runCli(['list', image, '--json']))['generations'];
    expect(entries).toMatchObject([
      {
        generation: 1,
        consistency: 'group',
        storedBytes: 3 * 2 ** 20,
        fingerprint: expect.stringMatching(/^[0-9a-f]{64}$/) as unknown,
      },
      { generation: 2, consistency: 'device', storedBytes: 2 * 2 ** 20 },
    ]);

    const show = await runCli(['show', image, '--generation', '1']);
    expectDone(show);
    expect(show.stdout).toContain(`Generation 1 of ${image}`);
    expect(show.stdout).toMatch(/^ {2}stall .*all barriers were up together for /m);
    expect(show.stdout).toMatch(/^ {2}a +1 .* 0 +- +yes$/m);
    expect(document(await runCli(['show', image, '--json']))).toMatchObject({
      generation: 2,
      strategy: 'rolling',
    });

    const verify = await runCli(['verify', image]);
    expectDone(verify);
    expect(verify.stdout).toContain('All is as it was written: 2 generations checked.');
    expect(document(await runCli(['verify', image, '--json', '--generation', 'latest']))).toMatchObject({
      ok: true,
      generations: [{ generation: 2, devices: [{ id: 'a', goodBytes: 4 * 2 ** 20, bad: [] }] }],
    });

    const out = directory.file('out');
    expectDone(await runCli(['restore', image, '--generation', '1', '--device', `a=${out}`]));
    expect(differenceAt(await readFile(out), first)).toBeUndefined();
    const again = await runCli(['restore', image, '--device', `a=${out}`, '--force', '--json']);
    expect(document(again)).toMatchObject({ generation: 2, devices: [{ id: 'a', path: out, bad: [] }] });
    await expectSameFile(out, disk);
  });

  test('says of a group without closing cut that it is not consistent', async () => {
    await using directory = temporaryDirectory();
    await makePlainDisk(directory.file('a.img'));
    await makePlainDisk(directory.file('b.img'));
    const args = ['--strategy', 'rolling', '--no-closing-cut', '--device', 'a.img', 'b.img'];
    const backup = await runCli(['backup', '--to', 'x', ...args], { cwd: directory.path });
    const show = await runCli(['show', 'x'], { cwd: directory.path });
    for (const { stdout } of [backup, show]) expect(stdout).toContain('NOT consistent as a group');
    expect(show.stdout).toContain('there was no instant at which all barriers were up');
  });

  test('an image without generations is nothing to be afraid of', async () => {
    await using directory = temporaryDirectory();
    const image = directory.file('x.cofferdam');
    // A backup whose source is missing never gets to the image; an empty one comes of a backup that fails later.

    await (await openImage(image, { write: true, create: true })).close();
    const list = await runCli(['list', image]);
    expectDone(list);
    expect(list.stdout).toBe(`${image} holds no generation yet\n`);
    expectDone(await runCli(['verify', image]));
    const show = await runCli(['show', image]);
    expect(show.stderr).toContain('cofferdam: UNKNOWN_GENERATION: ');
  });
});
