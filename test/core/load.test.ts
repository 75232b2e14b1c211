import { cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { loadCore } from '#src/core/load';
import { needs } from '../support/needs.js';
import { runProcess } from '../support/process.js';
import { Scratch } from './scratch.js';

const root = fileURLToPath(new URL('../../', import.meta.url));

/** Loads the core twice in a process of its own and prints its name or its error; warnings go to stderr. */
const program = `
  const { loadCore } = await import(process.argv[1]);
  const names = [];
  try {
    for (let i = 0; i < 2; i++) names.push((await loadCore()).name);
    console.log(names.join(' '));
  } catch (error) {
    console.log(error.code + ' ' + error.message);
  }
`;

async function load(package_: string, core: string | undefined): Promise<{ stdout: string; stderr: string }> {
  const args = ['--input-type=module', '-e', program, `${package_}/dist/core/load.js`];
  return await runProcess(process.execPath, args, { env: { COFFERDAM_CORE: core } });
}

/** The compiled package without a native core, or with something else in its place. */
function packageWithout(scratch: Scratch, native?: string): string {
  const path = scratch.path('package');
  mkdirSync(`${path}/native/build`, { recursive: true });
  writeFileSync(`${path}/package.json`, '{ "type": "module" }');
  cpSync(`${root}dist`, `${path}/dist`, { recursive: true });
  symlinkSync(`${root}node_modules`, `${path}/node_modules`);
  if (native !== undefined) {
    writeFileSync(`${path}/native/build/cofferdam.${process.platform}-${process.arch}.node`, native);
  }
  return path;
}

needs('native core')('takes the native core where there is one', async () => {
  expect(await load(root, undefined)).toMatchObject({ stdout: 'native native\n', stderr: '' });
  expect(await load(root, 'native')).toMatchObject({ stdout: 'native native\n', stderr: '' });
});

test('takes the core that the environment names', async () => {
  expect(await load(root, 'portable')).toMatchObject({ stdout: 'portable portable\n', stderr: '' });
});

test('refuses a core that does not exist', async () => {
  expect((await load(root, 'fast')).stdout).toMatch(/^BAD_ARGUMENT .*"fast"/);
});

test('falls back to the portable core and says so once', async () => {
  using scratch = new Scratch();
  const { stdout, stderr } = await load(packageWithout(scratch), undefined);
  expect(stdout).toBe('portable portable\n');
  expect(stderr.match(/COFFERDAM_PORTABLE_CORE/g)).toHaveLength(1);
  expect(stderr).toMatch(/npm run build:native/);
});

test('falls back from a native core that cannot be loaded', async () => {
  using scratch = new Scratch();
  const { stdout, stderr } = await load(packageWithout(scratch, 'not a library'), undefined);
  expect(stdout).toBe('portable portable\n');
  expect(stderr).toMatch(/COFFERDAM_PORTABLE_CORE/);
});

test('a native core that is asked for and missing is an error that says what to do', async () => {
  using scratch = new Scratch();
  const { stdout, stderr } = await load(packageWithout(scratch), 'native');
  expect(stdout).toMatch(/^DEVICE_UNSUPPORTED .*npm run build:native/);
  expect(stderr).toBe('');
});

test('a core is loaded once', () => {
  expect(loadCore('portable')).toBe(loadCore('portable'));
});

needs('native core')('loads by name on threads that come and go, whatever the environment says', async () => {
  const thread = `
    const { parentPort, workerData } = require('node:worker_threads');
    import(workerData).then(async ({ loadCore }) => {
      const hashes = [];
      for (const name of ['native', 'portable']) {
        const core = await loadCore(name);
        hashes.push(core.name + ' ' + Buffer.from(core.hash('xxh64', Buffer.from('abc'))).toString('hex'));
      }
      parentPort.postMessage(hashes);
    });
  `;
  for (let round = 0; round < 4; round++) {
    const worker = new Worker(thread, { eval: true, workerData: `${root}dist/core/load.js`, env: {} });
    const answer = await new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    await worker.terminate();
    expect(answer).toEqual(['native 44bc2cf5ad770999', 'portable 44bc2cf5ad770999']);
  }
});
