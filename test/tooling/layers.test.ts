import { cpSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join, parse } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, test } from 'vitest';
import { temporaryDirectory } from '../support/directory.js';
import { runProcess } from '../support/process.js';

const project = fileURLToPath(new URL('../..', import.meta.url));

/** The layers of src/, lowest first. */
const layers = [
  'runtime',
  'core',
  'devices',
  'nbd',
  'servers',
  'backup',
  'service',
  'witness',
  'plot',
  'simulation',
  'cli',
  'index',
  'vitest',
];

/** A source file of a layer, from its root; `index` is a file, the others are folders. */
function fileIn(layer: string): string {
  return layer === 'index' ? 'src/index.ts' : `src/${layer}/file.ts`;
}

/** How a file of `from` writes the path of `to` in an import. */
function pathBetween(from: string, to: string): string {
  return `${from === 'index' ? './' : '../'}${to === 'index' ? 'index' : `${to}/other`}.js`;
}

/**
 * Runs the linter, with the project's own configuration, on files that are given by their path in the project.
 *
 * @returns the messages of the layer rule by file; other rules do not count.
 */
async function lint(files: Readonly<Record<string, string>>): Promise<Map<string, string[]>> {
  await using directory = temporaryDirectory();
  cpSync(join(project, 'scripts'), directory.file('scripts'), { recursive: true });
  cpSync(join(project, '.oxlintrc.json'), directory.file('.oxlintrc.json'));
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(directory.file(path)), { recursive: true });
    writeFileSync(directory.file(path), content);
  }
  const { exitCode, stdout } = await runProcess(join(project, 'node_modules/.bin/oxlint'), ['-f', 'json'], {
    cwd: directory.path,
  });
  const report = JSON.parse(stdout) as {
    diagnostics: { code?: string; message: string; filename: string; severity: string }[];
  };
  const found = new Map<string, string[]>();
  for (const { code, message, filename, severity } of report.diagnostics) {
    if (code !== 'layers(order)') continue;
    expect(severity).toBe('error');
    expect(exitCode).toBe(1);
    found.set(filename, [...(found.get(filename) ?? []), message]);
  }
  return found;
}

test('everything in src/ has a place among the layers', () => {
  const names = readdirSync(join(project, 'src')).map((name) => parse(name).name);
  expect(names.filter((name) => !layers.includes(name))).toEqual([]);
});

test('each layer may use itself and those below, and none above', async () => {
  const files: Record<string, string> = {};
  const expected = new Map<string, string[]>();
  for (const [rank, layer] of layers.entries()) {
    files[fileIn(layer)] = layers
      .map((other, i) => `import '${pathBetween(layer, other)}'; // ${i}`)
      .join('\n');
    const refused = layers
      .slice(rank + 1)
      .map((other) => `src/${layer} must not use src/${other}: the order is ${layers.join(' < ')}`);
    if (refused.length > 0) expected.set(fileIn(layer), refused);
  }
  expect(await lint(files)).toEqual(expected);
});

const waysToRefer: readonly (readonly [way: string, source: string])[] = [
  ['a default import', "import a from '../cli/a.js';"],
  ['a namespace import', "import * as a from '../cli/a.js';"],
  ['a type import', "import type { A } from '../cli/a.js';"],
  ['a type in place', "export type A = import('../cli/a.js').A;"],
  ['an export', "export { a } from '../cli/a.js';"],
  ['an export of all', "export * from '../cli/a.js';"],
  ['a dynamic import', "export const a = await import('../cli/a.js');"],
  ['a dynamic import of a template', 'export const a = (b: string) => import(`../cli/${b}.js`);'],
  ['a require', "export const a = createRequire(import.meta.url)('../cli/a.js');"],
  ['a worker', "new Worker(new URL('../cli/a.js', import.meta.url));"],
  ['a detour', "import a from './../../src/cli/a.js';"],
  ['a subpath of the package', "import a from '#src/cli/a';"],
];

describe('a higher layer may not be referred to by', () => {
  let found: Map<string, string[]>;
  beforeAll(async () => {
    found = await lint(
      Object.fromEntries(waysToRefer.map(([, source], i) => [`src/devices/way-${i}.ts`, source])),
    );
  });

  test.each(waysToRefer.map(([way], i) => [way, i] as const))('%s', (_, i) => {
    expect(found.get(`src/devices/way-${i}.ts`)).toEqual([
      expect.stringContaining('src/devices must not use src/cli'),
    ]);
  });
});

test('a deeper folder is bound by its layer', async () => {
  const found = await lint({
    'src/backup/image/file.ts': "import '../../cli/a.js'; import '../cli/a.js'; import '../../core/a.js';",
  });
  expect(found.get('src/backup/image/file.ts')).toEqual([
    expect.stringContaining('src/backup must not use src/cli'),
  ]);
});

test('the package may not be imported by its own name inside src/', async () => {
  const found = await lint({
    'src/cli/file.ts':
      "import a from 'cofferdam'; export * from 'cofferdam/vitest'; export const b = 'cofferdam';",
  });
  expect(found.get('src/cli/file.ts')).toHaveLength(2);
});

test('only src/core reaches into native/', async () => {
  const source = "export const a = new URL('../../native/build/', import.meta.url);";
  const files = Object.fromEntries(
    layers.filter((layer) => layer !== 'index').map((l) => [fileIn(l), source]),
  );
  const found = await lint({ ...files, 'src/index.ts': source.replace('../../', '../') });
  expect([...found.keys()].sort()).toEqual(
    layers
      .filter((layer) => layer !== 'core')
      .map(fileIn)
      .sort(),
  );
});

test('a new folder of src/ is refused until it is given a place', async () => {
  const found = await lint({ 'src/extra/file.ts': 'export {};', 'src/other.ts': 'export {};' });
  expect(found.get('src/extra/file.ts')).toEqual([expect.stringContaining('src/extra is not in the list')]);
  expect(found.get('src/other.ts')).toEqual([expect.stringContaining('src/other is not in the list')]);
});

test('tests and scripts are free', async () => {
  const source = "import '../../src/cli/main.js'; import '#src/vitest/index'; import 'cofferdam';";
  const files = { 'test/devices/a.test.ts': source, 'scripts/a.mjs': source, 'src/devices/bound.ts': source };
  expect([...(await lint(files)).keys()]).toEqual(['src/devices/bound.ts']);
});
