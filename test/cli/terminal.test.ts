import { stripVTControlCharacters } from 'node:util';
import { expect, test } from 'vitest';
import { commandLine } from '#src/cli/wording';
import { program, runCli } from '../support/cli.js';
import { temporaryDirectory } from '../support/directory.js';
import { needs } from '../support/needs.js';
import { runProcess } from '../support/process.js';
import { makePlainDisk } from './disk.js';
import { expectDone } from './expectations.js';

/** Runs the program on a terminal of its own and returns what that shows in the end, line by line. */
async function onTerminal(rows: number, args: readonly string[], cwd: string): Promise<string[]> {
  const line = `stty rows ${rows} cols 100; ${commandLine([process.execPath, program, ...args])}`;
  const result = await runProcess('script', ['--quiet', '--return', '--command', line, '/dev/null'], { cwd });
  expect(result.exitCode, result.stdout).toBe(0);
  return screenOf(result.stdout);
}

const ESCAPE = String.fromCharCode(27);
const sequence = new RegExp(`^${ESCAPE}\\[\\??(\\d*)([A-Za-z])$`);
const tokens = new RegExp(`${ESCAPE}\\[\\??\\d*[A-Za-z]|[^]`, 'gu');

/** What a terminal makes of the bytes: only the sequences that cli-progress uses. */
function screenOf(bytes: string): string[] {
  const lines: string[] = [''];
  let row = 0;
  let column = 0;
  for (const [token] of bytes.matchAll(tokens)) {
    const [, count = '', verb] = sequence.exec(token) ?? [];
    if (verb === 'A') row = Math.max(0, row - Number(count || 1));
    else if (verb === 'G') column = 0;
    else if (verb === 'K') lines[row] = (lines[row] ?? '').slice(0, column);
    else if (verb === 'J') lines.splice(row, Infinity, (lines[row] ?? '').slice(0, column));
    else if (verb !== undefined) continue;
    else if (token === '\n') lines[++row] ??= '';
    else if (token === '\r') column = 0;
    else {
      const line = lines[row] ?? '';
      lines[row] = line.slice(0, column) + token + line.slice(column + 1);
      column++;
    }
  }
  return lines;
}

needs(
  'script',
  'stty',
  '/proc/self',
)('a terminal shows one bar per device, and the result below', async () => {
  await using directory = temporaryDirectory();
  await makePlainDisk(directory.file('a.img'));
  await makePlainDisk(directory.file('long-name.img'), 1000, 0);
  const args = ['backup', '--to', 'x', '--device', 'a.img', 'long-name.img'];
  const screen = await onTerminal(30, args, directory.path);
  expect(screen[0]).toMatch(/^ {2}a {9}█+ 100% +4\.0 MiB of 4\.0 MiB +\S+ [KMG]iB\/s in /);
  expect(screen[1]).toMatch(/^ {2}long-name +█+ 100% +1000 B of 1000 B /);
  expect(screen[2]).toBe('Generation 1 of x: 2 devices, 4.0 MiB');
});

needs(
  'script',
  'stty',
  '/proc/self',
)('a terminal with fewer lines than devices shows the last ones', async () => {
  await using directory = temporaryDirectory();
  const names = Array.from({ length: 6 }, (_, i) => `disk${i}.img`);
  for (const name of names) await makePlainDisk(directory.file(name), 100_000, 0);
  const screen = await onTerminal(4, ['backup', '--to', 'x', '--device', ...names], directory.path);
  const end = screen.findIndex((line) => line.startsWith('Generation 1'));
  expect(screen.slice(end - 3, end).map((line) => line.trim().split(' ')[0])).toEqual([
    'disk3',
    'disk4',
    'disk5',
  ]);
});

test('anything else than a terminal gets no bars', async () => {
  await using directory = temporaryDirectory();
  await makePlainDisk(directory.file('a.img'));
  // Half a second, in which there would be several updates.
  const args = ['backup', '--to', 'x', '--device', 'a.img', '--limit', '6MiB/s'];
  const backup = await runCli(args, { cwd: directory.path });
  expectDone(backup);
  expect(backup.stdout).not.toContain('█');
  expect(stripVTControlCharacters(backup.stdout)).toBe(backup.stdout);
  expectDone(await runCli(['verify', 'x'], { cwd: directory.path }));
  expectDone(await runCli(['restore', 'x', '--to-dir', 'out'], { cwd: directory.path }));
});
