import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { refuseNode } from '../../scripts/ready/node-version.mjs';
import type { ProcessResult } from '../support/process.js';
import { Clone } from './clone.js';

const install = 'npm ci --include=dev --no-audit --no-fund';
const buildNative = 'npm run --silent build:native';
const binary = 'native/build/cofferdam.test.node';

/** A clone on which everything was made once. */
async function readyClone(): Promise<Clone> {
  const clone = new Clone();
  expectDone(await clone.ready());
  return clone;
}

function expectDone(result: ProcessResult): void {
  expect(result).toMatchObject({ exitCode: 0, stdout: '' });
}

const silence: ProcessResult = { exitCode: 0, stdout: '', stderr: '' };

describe('a fresh clone', () => {
  test('is installed, built and compiled, with one line for each', async () => {
    await using clone = new Clone();
    const result = await clone.ready();
    expect(result.stderr.split('\n')).toEqual([
      'ready: installing packages',
      expect.stringContaining('ready: building the native core'),
      'ready: compiling',
      '',
    ]);
    expect(result).toMatchObject({ exitCode: 0, stdout: '' });
    expect(clone.calls).toEqual([install, buildNative]);
    expect(clone.exists(binary)).toBe(true);
    expect(clone.exists('dist/other.d.ts')).toBe(true);
    expect(statSync(clone.path('dist/cli/main.js')).mode & 0o111).toBe(0o111);
  });

  test('is left alone, without a word, once it is ready', async () => {
    await using clone = await readyClone();
    clone.touchSources();
    expect(await clone.ready()).toEqual(silence);
    expect(clone.calls).toEqual([install, buildNative]);
  });

  test('is refused on a Node that is too old', async () => {
    await using clone = new Clone();
    clone.write('package.json', JSON.stringify({ engines: { node: '^18.0 || >=99.12' } }));
    expect(await clone.ready()).toEqual({
      exitCode: 1,
      stdout: '',
      stderr:
        `ready: this is Node ${process.versions.node}, but cofferdam needs ^18.0 or >=99.12; ` +
        'install one of these and run the command again\n',
    });
    expect(clone.calls).toEqual([]);
  });
});

test.each([
  ['18.20.8', 'refused'],
  ['20.18.3', 'refused'],
  ['20.19.0', 'allowed'],
  ['20.20.2', 'allowed'],
  ['21.7.3', 'refused'],
  ['22.11.0', 'refused'],
  ['22.12.0', 'allowed'],
  ['23.0.0', 'allowed'],
  ['26.1.0', 'allowed'],
])('Node %s is %s', (version, verdict) => {
  const refusal = refuseNode('^20.19 || >=22.12', version);
  expect(refusal === undefined ? 'allowed' : 'refused').toBe(verdict);
});

describe('packages', () => {
  test('are installed again when package-lock.json changes', async () => {
    await using clone = await readyClone();
    clone.lockPackage('2.0.0');
    expectDone(await clone.ready());
    expect(clone.calls).toEqual([install, buildNative, install]);
    expect(await clone.ready()).toEqual(silence);
  });

  test('are not installed again after somebody installed them by hand', async () => {
    await using clone = await readyClone();
    clone.lockPackage('2.0.0');
    clone.installByHand('2.0.0');
    expect(await clone.ready()).toEqual(silence);
    expect(clone.calls.filter((call) => call === install)).toHaveLength(1);
  });

  test('that somebody installed in another version are replaced', async () => {
    await using clone = new Clone();
    clone.installByHand('0.9.0');
    expectDone(await clone.ready());
    expect(clone.calls).toContain(install);
  });
});

describe('compiled sources', () => {
  test('follow a changed source', async () => {
    await using clone = await readyClone();
    clone.write('src/other.ts', 'export const other = 2;\n');
    expect((await clone.ready()).stderr).toBe('ready: compiling\n');
    expect(clone.read('dist/other.js')).toContain('other = 2');
    expect(await clone.ready()).toEqual(silence);
  });

  test('of a deleted or renamed source do not stay behind', async () => {
    await using clone = await readyClone();
    clone.remove('src/other.ts');
    clone.write('src/renamed.ts', 'export const other = 1;\n');
    expectDone(await clone.ready());
    expect(clone.exists('dist/other.js')).toBe(false);
    expect(clone.exists('dist/other.d.ts')).toBe(false);
    expect(clone.exists('dist/renamed.js')).toBe(true);
  });

  test('stay as they were when there is an error, which is shown every time', async () => {
    await using clone = await readyClone();
    clone.write('src/other.ts', "export const other: number = 'text';\n");
    for (const attempt of ['first', 'second']) {
      const result = await clone.ready();
      expect(result.exitCode, attempt).toBe(1);
      expect(result.stderr).toContain('src/other.ts(1,14): error TS2322');
    }
    expect(clone.read('dist/other.js')).toContain('other = 1');
  });

  test('are made again when somebody used the compiler since, on other sources', async () => {
    await using clone = await readyClone();
    const source = clone.read('src/other.ts');
    clone.write('src/other.ts', 'export const other = 3;\n');
    await compileByHand(clone);
    expect(clone.read('dist/other.js')).toContain('other = 3');
    clone.write('src/other.ts', source);
    expectDone(await clone.ready());
    expect(clone.read('dist/other.js')).toContain('other = 1');
  });
});

describe('the native core', () => {
  test('is built again when its sources change', async () => {
    await using clone = await readyClone();
    clone.write('native/src/lib.rs', 'fn second() {}\n');
    expectDone(await clone.ready());
    expect(clone.read(binary)).toContain('second');
    expect(clone.calls).toEqual([install, buildNative, buildNative]);
  });

  test('is built again when its binary is gone', async () => {
    await using clone = await readyClone();
    clone.remove(binary);
    expectDone(await clone.ready());
    expect(clone.exists(binary)).toBe(true);
  });

  test('is replaced by the portable core where there is no cargo, in one line', async () => {
    await using clone = new Clone();
    clone.removeCargo();
    const first = await clone.ready();
    expectDone(first);
    expect(first.stderr.match(/portable/g)).toHaveLength(1);
    const line =
      'ready: using the portable core, which is slower: there is no cargo on the PATH; ' +
      'for the native one, install Rust 1.88 or newer (rustup.rs)\n';
    expect(await clone.ready()).toEqual({ exitCode: 0, stdout: '', stderr: line });
    expect(clone.calls).toEqual([install]);
  });

  test('is not tried with a Rust that is too old, and built once there is a newer one', async () => {
    await using clone = new Clone();
    clone.useRust('1.87.0');
    const result = await clone.ready();
    expectDone(result);
    expect(result.stderr).toContain('this is Rust 1.87.0; for the native one, install Rust 1.88 or newer');
    expect(clone.calls).toEqual([install]);
    clone.useRust('1.88.0');
    expectDone(await clone.ready());
    expect(clone.calls).toEqual([install, buildNative]);
  });

  test('that fails to build is replaced by the portable one, and not tried again in vain', async () => {
    await using clone = new Clone();
    clone.write('native/src/lib.rs', 'broken\n');
    const first = await clone.ready();
    expectDone(first);
    expect(first.stderr).toContain('ready: the native core could not be built\nerror: broken at line 1\n');
    expect(first.stderr).toContain('ready: using the portable core');
    expect(clone.read('native/build/build.log')).toContain('error: broken at line 1');

    const second = await clone.ready();
    expect(second.stderr).toBe(
      'ready: using the portable core, which is slower: the native one did not build, ' +
        'see native/build/build.log; to try again, remove native/build\n',
    );
    expect(clone.calls).toEqual([install, buildNative]);

    clone.useRust('1.96.0');
    expectDone(await clone.ready());
    expect(clone.calls).toEqual([install, buildNative, buildNative]);

    clone.write('native/src/lib.rs', 'fn mended() {}\n');
    expectDone(await clone.ready());
    expect(clone.read(binary)).toContain('mended');
    expect(await clone.ready()).toEqual(silence);
  });

  test.each<[string, (clone: Clone) => Promise<ProcessResult>]>([
    [
      'there is no cargo any more',
      (clone) => {
        clone.removeCargo();
        return clone.ready();
      },
    ],
    ['--no-native is given', (clone) => clone.ready(['--no-native'])],
    ['COFFERDAM_CORE is portable', (clone) => clone.ready([], { COFFERDAM_CORE: 'portable' })],
  ])('of older sources is removed when %s', async (_, runReady) => {
    await using clone = await readyClone();
    clone.write('native/src/lib.rs', 'fn newer() {}\n');
    expectDone(await runReady(clone));
    expect(clone.exists(binary)).toBe(false);
    expect(clone.calls).toEqual([install, buildNative]);
  });

  test('of older sources is removed when the newer ones do not build', async () => {
    await using clone = await readyClone();
    clone.write('native/src/lib.rs', 'broken\n');
    expectDone(await clone.ready());
    expect(clone.exists(binary)).toBe(false);
  });

  test('is kept when it is up to date but not wanted', async () => {
    await using clone = await readyClone();
    expect(await clone.ready(['--no-native'])).toEqual(silence);
    expect(await clone.ready([], { COFFERDAM_CORE: 'portable' })).toEqual(silence);
    expect(clone.exists(binary)).toBe(true);
  });

  test('is an error to lack with COFFERDAM_CORE=native', async () => {
    await using clone = new Clone();
    clone.removeCargo();
    const result = await clone.ready([], { COFFERDAM_CORE: 'native' });
    expect(result.exitCode).toBe(1);
    expect(result.stderr).toContain('ready: COFFERDAM_CORE=native, but there is no cargo on the PATH');
  });
});

describe('the command that follows', () => {
  const show = [
    'node',
    '-e',
    'console.log(process.env.COFFERDAM_CORE, ...process.argv.slice(1)); process.exit(7)',
  ];

  test('gets its arguments, and its exit code is passed on', async () => {
    await using clone = await readyClone();
    expect(await clone.ready([...show, 'a b', '--no-native'])).toEqual({
      exitCode: 7,
      stdout: 'undefined a b --no-native\n',
      stderr: '',
    });
  });

  test('is told to use the portable core where there is no other, so that it need not say so again', async () => {
    await using clone = await readyClone();
    expect((await clone.ready(['--no-native', ...show])).stdout).toBe('portable\n');
    clone.remove(binary);
    clone.removeCargo();
    expect((await clone.ready(show)).stdout).toBe('portable\n');
  });

  test('does not run when something failed before', async () => {
    await using clone = await readyClone();
    clone.write('src/other.ts', "export const other: number = 'text';\n");
    expect(await clone.ready(show)).toMatchObject({ exitCode: 1, stdout: '' });
  });

  test('does not keep others out while it runs', async () => {
    await using clone = new Clone();
    const running = clone.ready([
      'sh',
      '-c',
      'echo started >> $LOG; while [ ! -e end ]; do sleep 0.02; done',
    ]);
    await called(clone, 'started');
    clone.write('src/other.ts', 'export const other = 4;\n');
    expect((await clone.ready()).stderr).toBe('ready: compiling\n');
    clone.write('end', '');
    expectDone(await running);
  });

  test('passes on the signal that ended it', async () => {
    await using clone = await readyClone();
    const result = await clone.ready(['sh', '-c', 'kill -TERM $$']);
    expect(result.exitCode).toBeUndefined();
  });
});

describe('two at once', () => {
  test('do the work once', async () => {
    await using clone = new Clone();
    clone.holdNpm();
    const first = clone.start();
    await called(clone, install);
    const second = clone.start();
    await second.says('ready: waiting for another run in this directory\n');
    clone.letNpmGo();
    expect(await first.ended).toEqual([0, null]);
    expect(await second.ended).toEqual([0, null]);
    expect(clone.calls).toEqual([install, buildNative]);
    expect(await clone.ready()).toEqual(silence);
  });

  test('do not wait for one that was killed', async () => {
    await using clone = new Clone();
    clone.holdNpm();
    const killed = clone.start();
    await called(clone, install);
    const waiting = clone.start();
    await waiting.says('ready: waiting for another run in this directory\n');
    killed.kill();
    expect(await killed.ended).toEqual([null, 'SIGKILL']);
    clone.letNpmGo();
    expect(await waiting.ended).toEqual([0, null]);
    expect(clone.exists('dist/other.js')).toBe(true);
  });
});

async function called(clone: Clone, call: string): Promise<void> {
  while (!clone.calls.includes(call)) await sleep(10);
}

async function compileByHand(clone: Clone): Promise<void> {
  const compiler = spawn('node_modules/.bin/tsc', ['-p', 'tsconfig.json'], { cwd: clone.root });
  await once(compiler, 'close');
}
