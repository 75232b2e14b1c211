import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { ControlClient, parseControlAddress } from 'cofferdam';
import { runCli } from '../support/cli.js';
import { temporaryDirectory } from '../support/directory.js';
import { readPage } from '../support/markup.js';
import { startCli } from '../support/served.js';
import { makePlainDisk } from './disk.js';
import { document, expectDone, expectFailure } from './expectations.js';

/** The fill of a barrier that is up. */
const BARRIER = '#2f6fb0';

/** The cells of the table, row by row. */
function rowsOf(page: string): string[][] {
  return [...page.matchAll(/<tr>([^]*?)<\/tr>/g)]
    .map(([, row = '']) => [...row.matchAll(/<td[^>]*>([^]*?)<\/td>/g)].map(([, cell = '']) => cell.trim()))
    .filter((cells) => cells.length > 0);
}

/** How many barriers a picture shows; the legend has one more. */
function barsOf(page: string): number {
  return [...page.matchAll(new RegExp(`<path [^>]*fill="${BARRIER}"`, 'g'))].length - 1;
}

test.each([
  { strategy: 'snapshot', barriers: 3 },
  { strategy: 'hold', barriers: 3 },
  { strategy: 'rolling', barriers: 6 },
])('backup --report with $strategy writes a page with every barrier', async ({ strategy, barriers }) => {
  await using directory = temporaryDirectory();
  const options = { cwd: directory.path };
  for (const id of ['db', 'log', 'queue']) await makePlainDisk(directory.file(`${id}.img`));
  const args = ['backup', '--to', 'x', '--device', 'db.img', 'log.img', 'queue.img', '--strategy', strategy];
  expectDone(await runCli([...args, '--report', 'page.html'], options));

  const page = await readPage(directory.file('page.html'));
  expect(page).toContain('Generation 1 of x');
  expect(page).toContain('crash-consistent: all devices are as of one instant');
  expect(rowsOf(page).map(([id, size]) => [id, size])).toEqual([
    ['db', '4.0 MiB'],
    ['log', '4.0 MiB'],
    ['queue', '4.0 MiB'],
  ]);
  expect(rowsOf(page).map(([, , ups]) => ups?.split(' + ').length)).toEqual(
    [1, 1, 1].map((one) => (one * barriers) / 3),
  );
  for (const id of ['db', 'log', 'queue']) expect(page).toContain(`>${id}</text>`);
  // A cut that is short beside the backup is drawn once more.
  expect(barsOf(page)).toBe(barriers + (page.includes('>the cut over all, ') ? 3 : 0));
  expect((await readdir(directory.path)).toSorted()).toEqual([
    'db.img',
    'log.img',
    'page.html',
    'queue.img',
    'x',
  ]);

  // The next one takes its place, and the document does not change for it.
  const again = await runCli([...args, '--report', 'page.html', '--json'], options);
  expectDone(again);
  expect(document(again)).not.toHaveProperty('timeline');
  expect(await readPage(directory.file('page.html'))).toContain('Generation 2 of x');
});

test('text is text, whatever is in it', async () => {
  await using directory = temporaryDirectory();
  const options = { cwd: directory.path };
  await makePlainDisk(directory.file('a.img'));
  const image = `<script>alert("x")</script>&'.img`.replace('/', '_');
  expectDone(await runCli(['backup', '--to', image, '--device', 'a.img', '--report', 'page.html'], options));
  expect(await readPage(directory.file('page.html'))).toContain(
    'Generation 1 of &#60;script&#62;alert(&#34;x&#34;)',
  );
});

test('a report that cannot be written is refused before anything is copied', async () => {
  await using directory = temporaryDirectory();
  const options = { cwd: directory.path };
  const disk = await makePlainDisk(directory.file('a.img'), 4096, 0);
  await mkdir(directory.file('folder'));
  const report = async (path: string): Promise<ReturnType<typeof runCli>> =>
    await runCli(['backup', '--to', 'x', '--device', 'a.img', '--report', path], options);

  expect(expectFailure(await report('nowhere/page.html'), 'TARGET_WRITE_FAILED')).toContain(
    'nowhere/page.html',
  );
  expectFailure(await report('folder'), 'TARGET_WRITE_FAILED');
  expect(expectFailure(await report('a.img'), 'TARGET_EXISTS')).toContain('a.img');
  expect(Buffer.compare(await readFile(directory.file('a.img')), disk)).toBe(0);
  expect((await readdir(directory.path)).toSorted()).toEqual(['a.img', 'folder']);
});

test('a backup that fails leaves the report of the last one, and nothing else', async () => {
  await using directory = temporaryDirectory();
  const before = '<!DOCTYPE html><title>the last one</title>';
  await writeFile(directory.file('page.html'), before);
  const args = ['backup', '--to', 'x', '--device', 'missing.img', '--report', 'page.html'];
  expectFailure(await runCli(args, { cwd: directory.path }), 'DEVICE_NOT_FOUND');
  expect(await readFile(directory.file('page.html'), 'utf8')).toBe(before);
  expect(await readdir(directory.path)).toEqual(['page.html']);
});

test.each(['x', './x', 'link/x', 'to-x'])(
  'a report at %s, where the image is to be, is refused',
  async (path) => {
    await using directory = temporaryDirectory();
    await makePlainDisk(directory.file('a.img'));
    await symlink('.', directory.file('link'));
    await symlink('x', directory.file('to-x'));
    const args = ['backup', '--to', 'x', '--device', 'a.img', '--report', path];
    const failure = expectFailure(await runCli(args, { cwd: directory.path }), 'BAD_ARGUMENT', 2);
    expect(failure).toContain('are the same file');
    expect((await readdir(directory.path)).toSorted()).toEqual(['a.img', 'link', 'to-x']);
  },
);

test('a report whose place was taken meanwhile fails, and says that the backup is good', async () => {
  await using directory = temporaryDirectory();
  const options = { cwd: directory.path };
  await makePlainDisk(directory.file('a.img'));
  // The image is there once the place of the report was found free, and copying takes a second from then on.
  const args = ['backup', '--device', 'a.img', '--limit', '2MiB/s', '--json', '--to'];
  const slow = runCli([...args, 'x', '--report', 'page'], options);
  await expect.poll(() => readdir(directory.path)).toContain('x');
  await writeFile(directory.file('page'), 'precious');
  const backup = await slow;
  const message = expectFailure(backup, 'TARGET_EXISTS');
  expect(message).toContain('the backup is made and good, as generation 1 of x');
  expect(document(backup)).toMatchObject({ generation: 1, error: { code: 'TARGET_EXISTS' } });
  expect(await readFile(directory.file('page'), 'utf8')).toBe('precious');
  expectDone(await runCli(['verify', 'x'], options));
});

test('a served cluster is reported on, whoever does the work', async () => {
  await using directory = temporaryDirectory();
  const options = { cwd: directory.path };
  const server = (id: string): string => `
  - id: ${id}
    device: { kind: memory, size: 1MiB }
    listen: 'nbd+unix:///?socket=${id}.sock'
    control: ${id}.control`;
  await writeFile(directory.file('two.yaml'), `servers:${server('a')}${server('b')}`);
  await writeFile(directory.file('one.yaml'), `servers:${server('a')}`);
  await using _a = await startCli(['serve', 'two.yaml', '--only', 'a'], options);
  await using _b = await startCli(['serve', 'two.yaml', '--only', 'b'], options);
  for (const [from, ids] of [
    [['--cluster', 'one.yaml'], ['a']],
    [
      ['--cluster', 'two.yaml'],
      ['a', 'b'],
    ],
    [['--control', 'b.control'], ['b']],
  ] as const) {
    expectDone(await runCli(['backup', '--to', 'x', ...from, '--report', 'page.html'], options));
    const page = await readPage(directory.file('page.html'));
    expect(rowsOf(page).map(([id]) => id)).toEqual(ids);
    expect(barsOf(page)).toBeGreaterThanOrEqual(ids.length);
  }
  expect(existsSync(directory.file('x'))).toBe(true);
  // The list of all jobs stays short.
  await using client = new ControlClient({ address: parseControlAddress(directory.file('b.control')) });
  const { backups } = await client.status();
  expect(backups).toMatchObject([{ state: 'done', result: { generation: 3 } }]);
  expect(backups[0]?.result).not.toHaveProperty('timeline');
});
