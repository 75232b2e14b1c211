import { existsSync } from 'node:fs';
import { readdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { readClusterFile } from '#src/servers/cluster-config';
import { temporaryDirectory } from '../support/directory.js';
import { needs } from '../support/needs.js';
import { blocks, links, readPage, root, runScript } from './examples.js';

/** Runs the shell examples of a page one after the other, in one folder, and returns what they print. */
async function runPage(page: string): Promise<string> {
  await using directory = temporaryDirectory();
  const scripts = blocks(page, 'sh');
  expect(scripts.length).toBeGreaterThan(0);
  // What an example that fails leaves running would keep the test waiting.
  const cleanUp = `trap '[ $? = 0 ] || kill \${server:-} \${other:-} \${client:-}' EXIT`;
  const script = [cleanUp, ...scripts].join('\n');
  const result = await runScript(directory, script, { timeoutMs: 60_000 });
  expect(result, result.stdout + result.stderr).toMatchObject({ exitCode: 0 });
  return result.stdout;
}

describe('the page about the cluster file', async () => {
  const page = await readPage('docs/CLUSTER.md');

  test('has an example that is valid, with the defaults that it says', async () => {
    const [example = ''] = blocks(page, 'yaml');
    await using directory = temporaryDirectory();
    const path = directory.file('cluster.yaml');
    await writeFile(path, example);
    const config = await readClusterFile(path);
    expect(config.servers.map(({ id }) => id)).toEqual(['db', 'log', 'scratch', 'rbd', 'pair']);
    const shorter = example.replaceAll(/^(listen|control):.*\n/gm, '').replace(' stripe: 64KiB,', '');
    expect(shorter.length).toBeLessThan(example.length - 100);
    await writeFile(path, shorter);
    expect(await readClusterFile(path)).toEqual(config);
  });

  needs(
    '/proc/self',
    'mkfifo',
    'nbdinfo',
    'openssl',
  )(
    'has shell examples that run, on two addresses of this machine for its two hosts',
    async () => {
      // Addresses of its own: the ports are those of the page.
      const network = `127.${process.pid % 256}.${(process.pid >> 8) % 256}.`;
      const stdout = await runPage(page.replaceAll('10.0.0.', network));
      expect(stdout).toContain('crash-consistent: all devices are as of one instant');
      expect(stdout).toContain('with TLS');
    },
    90_000,
  );
});

describe('the page about the control API', async () => {
  const page = await readPage('docs/CONTROL.md');

  needs(
    'curl',
    'mkfifo',
    'nbdcopy',
    'qemu-io',
  )(
    'has shell examples that do what it says',
    async () => {
      const stdout = await runPage(page);
      for (const outcome of ['no space left', 'unreadable', 'torn']) expect(stdout).toContain(`${outcome}\n`);
      expect(stdout).toContain('"hits":1');
      expect(stdout).toContain('{"seed":3}');
      expect(stdout).toMatch(/"broken":"[^"]*lost its power/);
      expect(stdout).toContain('"state":"done"');
    },
    90_000,
  );
});

test('every page links to files that are there', async () => {
  const inDocs = await readdir(join(root, 'docs'), { recursive: true });
  const names = inDocs.filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`);
  expect(names).toContain('docs/CLUSTER.md');
  for (const name of ['ARCHITECTURE.md', ...names]) {
    const found = links(await readPage(name));
    expect(
      found.filter((link) => !existsSync(join(root, dirname(name), link))),
      name,
    ).toEqual([]);
  }
});
