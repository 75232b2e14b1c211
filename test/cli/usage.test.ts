import { readdir, readFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { runCli } from '../support/cli.js';
import { temporaryDirectory } from '../support/directory.js';
import { makePlainDisk } from './disk.js';
import { document, expectDone, expectFailure } from './expectations.js';

const commands = [
  'demo',
  'backup',
  'list',
  'show',
  'verify',
  'restore',
  'open',
  'simulate',
  'witness run',
  'witness check',
] as const;

describe('help', () => {
  test.each(commands)('%s has one with an example', async (command) => {
    const result = await runCli([...command.split(' '), '--help']);
    expectDone(result);
    expect(result.stdout).toContain(`Usage: cofferdam ${command} `);
    expect(result.stdout).toContain(`\nExample:\n  cofferdam ${command}`);
    expect(result.stdout).toContain('--json');
  });

  test('of the whole lists the commands and the exit codes', async () => {
    const result = await runCli(['--help']);
    expectDone(result);
    for (const command of commands)
      expect(result.stdout).toMatch(new RegExp(`^  ${command.split(' ')[0]} `, 'm'));
    expect(result.stdout).toContain('Exit codes:');
  });

  test('of the whole lists all commands beside one that is named', async () => {
    const [whole, beside] = await Promise.all([runCli(['--help']), runCli(['--help', 'list'])]);
    expect(beside).toEqual(whole);
  });

  test('the version is the one of the package', async () => {
    const result = await runCli(['--version']);
    expectDone(result);
    const { version } = JSON.parse(
      await readFile(new URL('../../package.json', import.meta.url), 'utf8'),
    ) as Record<string, unknown>;
    expect(result.stdout).toBe(`${String(version)}\n`);
  });

  test.each([[[]], [['witness']]])('without a command, %j shows the help and fails', async (args) => {
    const result = await runCli(args);
    expect(result.exitCode).toBe(2);
    expect(result.stdout).toBe('');
    expect(result.stderr).toContain('Usage: cofferdam');
    expect(result.stderr).toMatch(
      /\ncofferdam: BAD_ARGUMENT: no command was given; see cofferdam.* --help\n$/,
    );
  });
});

/** Command lines that are wrong whatever is on the disk, and what the message names. */
const wrong: readonly (readonly [line: string, names: string])[] = [
  ['bakup', 'unknown command'],
  ['list', 'image'],
  ['list x y', 'too many arguments'],
  ['list x --frob', '--frob'],
  ['backup --to x', '--device'],
  ['backup --device a', '--to'],
  ['backup --to x --device a --strategy fast', 'snapshot, hold, rolling'],
  ['backup --to x --device a --hash md5', 'xxh64, blake3'],
  ['backup --to x --device a --no-closing-cut', '--strategy rolling'],
  ['backup --to x --device a --strategy hold --no-closing-cut', '--strategy rolling'],
  ['backup --to x --device a --block-size 5000', 'power of two'],
  ['backup --to x --device a --block-size 2KiB', 'power of two'],
  ['backup --to x --device a --block-size huge', '--block-size'],
  ['backup --to x --device a --max-stall soon', '--max-stall'],
  ['backup --to x --device a --max-stall 0', '--max-stall'],
  ['backup --to x --device a --limit 0', '--limit'],
  ['backup --to x --device a --limit -5', '--limit'],
  ['backup --to x --device a --workers 0', '--workers'],
  ['backup --to x --device a --workers 1.5', '--workers'],
  ['backup --to x --device a --workers 9999', 'from 1 to 64'],
  ['backup --to x --device a=', 'names no file'],
  ['backup --to x --device .hidden', 'ID=PATH'],
  ['backup --to x --device b@d=db@.img', '"b@d" cannot be a device ID: use 1 to 64 of A-Z'],
  ['backup --to x --device a --block-size 1000', '--block-size: "1000" must be a power of two'],
  ['show x --generation 0', '--generation'],
  ['show x --generation all', '--generation'],
  ['verify x --generation first', '--generation'],
  ['restore x', '--to-dir'],
  ['restore x --to-dir d --device a=b', '--to-dir'],
  ['restore x --device a', 'ID=PATH'],
  ['restore x --device ../a=b', 'cannot name a device'],
  ['witness run --servers 0 --seconds 1 --dir d', '--servers'],
  ['witness run --servers 1 --seconds 0 --dir d', '--seconds'],
  ['witness run --servers 1 --seconds 1', '--dir'],
  ['witness run --servers 1 --seconds 1 --dir d --no-closing-cut', '--strategy rolling'],
  ['open x', '--listen'],
  ['open x --listen nbd+unix:///', 'socket'],
  ['open x --listen nbd://localhost/a', 'leave out'],
  ['open x --listen nbd://localhost --writable', '--overlay'],
  ['open x --listen nbd://localhost --overlay o', '--writable'],
  ['witness check --history h', '--image'],
  ['witness run --seconds 1', '--servers'],
  ['witness run --seconds 1 --target nbd://localhost/a', '--copy'],
  ['witness run --seconds 1 --target nbd://localhost/a --copy c', '--history'],
  ['witness run --seconds 1 --target nbd://localhost/ --copy c --history h', 'ID=URI'],
  ['witness run --seconds 1 --target a=b --copy c --history h', 'NBD'],
  ['witness run --seconds 1 --target nbd://localhost/a --dir d', '--dir'],
  ['demo --seed x', '--seed'],
];

describe('bad usage', () => {
  test.each(wrong)('%s', async (line, names) => {
    await using directory = temporaryDirectory();
    const result = await runCli(line.split(' '), { cwd: directory.path });
    expect(expectFailure(result, 'BAD_ARGUMENT', 2)).toContain(names);
    expect(result.stdout).toBe('');
  });

  test.each([
    { words: ['backup', '--device', 'a', '--to', ''] },
    { words: ['backup', '--to', 'x', '--cluster', ''] },
    { words: ['backup', '--to', 'x', '--control', ''] },
    { words: ['backup', '--to', 'x', '--device', 'a', '--report', ''] },
    { words: ['backup', '--to', 'x', '--device', ''] },
    { words: ['list', ''] },
    { words: ['show', ''] },
    { words: ['verify', ''] },
    { words: ['restore', '', '--to-dir', 'out'] },
    { words: ['restore', 'x', '--to-dir', ''] },
    { words: ['open', '', '--listen', 'nbd://localhost'] },
    { words: ['open', 'x', '--listen', 'nbd://localhost', '--writable', '--overlay', ''] },
    { words: ['serve', ''] },
    { words: ['simulate', '--servers', '3', '--svg', ''] },
    { words: ['witness', 'check', '--history', '', '--image', 'a=b'] },
    { words: ['witness', 'run', '--seconds', '1', '--servers', '1', '--dir', ''] },
  ])('$words has a name that is empty', async ({ words }) => {
    await using directory = temporaryDirectory();
    const result = await runCli(words, { cwd: directory.path });
    expect(expectFailure(result, 'BAD_ARGUMENT', 2)).toMatch(/is empty|names no file/);
    expect(await readdir(directory.path)).toEqual([]);
  });

  test.each([
    'backup --to x --device a.img --device b/a.img',
    'backup --to x --device a=1.img a=2.img',
    'restore x --device a=1 a=2',
    'witness check --history h --image a=1 --image a=2',
    'demo a.img a=b.img',
  ])('%s names two devices alike', async (line) => {
    const result = await runCli(line.split(' '));
    expect(expectFailure(result, 'DUPLICATE_DEVICE', 2)).toContain('ID=PATH');
  });

  test('is answered in JSON where JSON was asked for', async () => {
    const result = await runCli(['backup', '--json', '--device', 'a', 'b/a']);
    expectFailure(result, 'DUPLICATE_DEVICE', 2);
    expect(document(result)).toEqual({
      error: {
        code: 'DUPLICATE_DEVICE',
        message: expect.stringContaining('ID=PATH') as unknown,
        device: 'a',
      },
      warnings: [],
    });
    expect(document(await runCli(['frob', '--json']))).toMatchObject({ error: { code: 'BAD_ARGUMENT' } });
  });

  test('a core that does not exist', async () => {
    await using directory = temporaryDirectory();
    await makePlainDisk(directory.file('a.img'));
    const args = ['backup', '--to', directory.file('x'), '--device', directory.file('a.img')];
    const result = await runCli(args, { env: { COFFERDAM_CORE: 'fast' } });
    expect(expectFailure(result, 'BAD_ARGUMENT', 2)).toContain('COFFERDAM_CORE');
  });
});
