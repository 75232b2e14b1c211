import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { z } from 'zod';
import { MiB } from '#src/runtime/sizes';
import { randomBytes } from '../support/bytes.js';
import { temporaryDirectory } from '../support/directory.js';
import { readPage } from '../support/markup.js';
import { needs } from '../support/needs.js';
import { runProcess, type ProcessResult } from '../support/process.js';

const root = fileURLToPath(new URL('../..', import.meta.url));

function runBench(...args: string[]): Promise<ProcessResult> {
  return runProcess(process.execPath, ['--import', 'tsx', 'bench/main.ts', ...args], {
    cwd: root,
    timeoutMs: 180_000,
  });
}

const positive = z.number().positive();
const ratio = z
  .strictObject({ median: positive, min: positive, max: positive })
  .refine(({ median, min, max }) => min <= median && median <= max);
const cell = z.union([z.string(), z.number().nonnegative(), ratio, z.null()]);
const column = z.strictObject({
  name: z.string().min(1),
  unit: z.enum(['text', 'count', 'bytes', 'bytes/s', 'ms', 'ratio']),
});
const table = z
  .strictObject({ title: z.string().min(1), columns: z.array(column), rows: z.array(z.array(cell)).min(1) })
  .refine(({ columns, rows }) => rows.every((row) => row.length === columns.length), 'a row is too short');
const axis = column.extend({ scale: z.enum(['linear', 'log']) });
const points = z
  .array(z.tuple([z.number(), z.number()]))
  .min(1)
  .refine((line) => line.every(([x], i) => x >= (line[i - 1]?.[0] ?? x)), 'x goes back');
const plot = z.strictObject({
  title: z.string().min(1),
  x: axis,
  y: axis,
  series: z.array(z.strictObject({ name: z.string().min(1), points })).min(1),
});
const suite = z.strictObject({
  name: z.string(),
  tables: z.array(table).min(1),
  plots: z.array(plot).optional(),
  notes: z.array(z.string().min(1)),
});
const output = z.strictObject({
  smoke: z.literal(true),
  machine: z.object({ processors: positive, memoryBytes: positive, node: z.string() }),
  suites: z.array(suite),
});

/** Whether a row holds something that was measured, and not only what it was measured of. */
function hasResult({ columns }: z.infer<typeof table>): (row: readonly z.infer<typeof cell>[]) => boolean {
  const results = new Set(
    columns.flatMap(({ unit }, i) => (['ms', 'bytes/s', 'ratio'].includes(unit) ? [i] : [])),
  );
  return (row) =>
    row.some((value, i) => results.has(i) && (Number(value) > 0 || ratio.safeParse(value).success));
}

/** All of them, with what they cannot do without. */
const suites: Readonly<Record<string, readonly string[]>> = {
  hash: [],
  core: [],
  scale: [],
  write: [],
  stall: ['fio'],
  copy: [],
  restore: [],
  verify: [],
  memory: [],
  nbd: ['fio'],
};

for (const [name, requirements] of Object.entries(suites)) {
  needs(...requirements)(`${name} runs and reports measurements`, async () => {
    const { exitCode, stdout, stderr } = await runBench(name, '--smoke', '--json');
    expect(exitCode, stderr).toBe(0);
    const [report, ...others] = output.parse(JSON.parse(stdout)).suites;
    expect([report?.name, others]).toEqual([name, []]);
    for (const measured of report?.tables ?? []) {
      expect(measured.rows.every(hasResult(measured)), measured.title).toBe(true);
    }
  });
}

test('the usage names every suite', async () => {
  const { stdout } = await runBench('--help');
  const named = [...stdout.matchAll(/^ {2}(\w+) {2,}/gm)].map(([, name]) => name);
  expect(named).toEqual(Object.keys(suites));
});

needs('fio', 'qemu-storage-daemon', 'xxhsum')(
  'a given image is measured with and left as it was',
  async () => {
    await using directory = temporaryDirectory();
    const image = directory.file('given.img');
    const bytes = randomBytes(MiB, 1);
    await writeFile(image, bytes);
    const { exitCode, stdout, stderr } = await runBench('--device', image, '--smoke', '--json');
    expect(exitCode, stderr).toBe(0);
    const reports = output.parse(JSON.parse(stdout)).suites;
    expect(reports.map(({ name, tables }) => [name, ...tables.map(({ title }) => title)])).toEqual([
      [
        'hash',
        'One thread, called from JavaScript',
        'xxh64 of 100 KiB, over and over',
        'xxh64 of given.img, 1.0 MiB: time',
        'xxh64 of given.img, 1.0 MiB: processor time',
        'blake3 of given.img, 1.0 MiB: time',
        'blake3 of given.img, 1.0 MiB: processor time',
      ],
      ['stall', 'Writes to copies of given.img', 'cofferdam / qemu-storage-daemon, copies of given.img'],
      ['copy', 'given.img, 1.0 MiB: time', 'given.img, 1.0 MiB: processor time'],
      ['restore', 'given.img, 1.0 MiB: time', 'given.img, 1.0 MiB: processor time'],
      [
        'verify',
        'given.img, 1.0 MiB, xxh64: time',
        'given.img, 1.0 MiB, xxh64: processor time',
        'given.img, 1.0 MiB, blake3: time',
        'given.img, 1.0 MiB, blake3: processor time',
      ],
      ['nbd', expect.stringMatching(/^A copy of given\.img (in memory|on disk), depth 32$/)],
    ]);
    expect(Buffer.compare(await readFile(image), bytes)).toBe(0);
  },
  180_000,
);

test('images are copied one by one and together, in one backup', async () => {
  await using directory = temporaryDirectory();
  const [a, b] = [directory.file('a.img'), directory.file('b.img')];
  await writeFile(a, randomBytes(MiB, 1));
  await writeFile(b, randomBytes(2 * MiB, 2));
  const { exitCode, stdout, stderr } = await runBench(
    'copy',
    '--device',
    a,
    '--device',
    b,
    '--smoke',
    '--json',
  );
  expect(exitCode, stderr).toBe(0);
  const [report] = output.parse(JSON.parse(stdout)).suites;
  expect(report?.tables.map(({ title }) => title).filter((title) => title.endsWith(': time'))).toEqual([
    'a.img, 1.0 MiB: time',
    'b.img, 2.0 MiB: time',
    'a.img, 1.0 MiB + b.img, 2.0 MiB: time',
  ]);
});

test('a suite that makes what it measures refuses images', async () => {
  const { exitCode, stderr } = await runBench('copy', 'scale', '--device', 'x.img', '--smoke');
  expect(exitCode).toBe(2);
  expect(stderr).toContain('scale makes what it measures; leave out --device');
});

/** Whether a table has anything to draw as bars. */
function hasRatio({ columns, rows }: z.infer<typeof table>): boolean {
  return columns.some(({ unit }, i) => unit === 'ratio' && rows.some((row) => row[i] !== null));
}

test('a report is a page with every table, every plot, bars of the ratios, and backups from start to end', async () => {
  await using directory = temporaryDirectory();
  const names = ['hash', 'scale', 'write'];
  const folder = directory.file('new/folder');
  const { exitCode, stdout, stderr } = await runBench(...names, '--smoke', '--json', '--report', folder);
  expect(exitCode, stderr).toBe(0);
  const { suites } = output.parse(JSON.parse(stdout));
  const page = await readPage(`${folder}/index.html`);
  for (const name of names) expect(page).toContain(`<h2>${name}</h2>`);
  const cells = suites.flatMap(({ tables }) => tables).flatMap(({ rows }) => rows.flat());
  expect(page.match(/<td /g)).toHaveLength(cells.length);
  // Three backups, every plot, and the bars of every table with ratios.
  const drawn = suites.flatMap(({ tables, plots = [] }) => [...tables.filter(hasRatio), ...plots]);
  expect(page.match(/<svg /g)).toHaveLength(3 + drawn.length);
  for (const strategy of ['snapshot', 'hold', 'rolling']) expect(page).toContain(`${strategy}: 4 servers, `);
});

test('the tables are for people without --json', async () => {
  const { exitCode, stdout } = await runBench('hash', '--smoke');
  expect(exitCode).toBe(0);
  expect(stdout).toMatch(/== hash ==[^]+xxh64 +64\.0 KiB +\S+ [KMG]iB\/s/);
});

test('an unknown suite is refused with the usage', async () => {
  const { exitCode, stdout, stderr } = await runBench('hash', 'speed');
  expect(exitCode).toBe(2);
  expect(stdout).toBe('');
  expect(stderr).toContain('there is no suite speed');
  expect(stderr).toContain('Usage: npm run bench');
});
