import { existsSync } from 'node:fs';
import { chmod, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { openCluster } from 'cofferdam';
import { program } from '../support/cli.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/directory.js';
import { needs } from '../support/needs.js';
import { runProcess } from '../support/process.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const readme = await readFile(join(root, 'README.md'), 'utf8');

/** The code blocks of a language, in order. */
function blocks(language: string): string[] {
  return [...readme.matchAll(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\``, 'gms'))].map(
    (match) => match[1] ?? '',
  );
}

/** A folder for the PATH with the program in it. */
async function programOnPath(directory: TemporaryDirectory): Promise<string> {
  const bin = join(directory.path, 'bin');
  await mkdir(bin);
  await writeFile(join(bin, 'cofferdam'), `#!/bin/sh\nexec ${process.execPath} ${program} "$@"\n`);
  await chmod(join(bin, 'cofferdam'), 0o755);
  return bin;
}

describe('README', () => {
  needs(
    'cmp',
    'truncate',
    'mkfifo',
    'nbdinfo',
    'nbdcopy',
    'nbdkit',
    'qemu-img',
    'qemu-io',
  )(
    'its shell examples run one after the other, in one folder',
    async () => {
      await using directory = temporaryDirectory();
      const bin = await programOnPath(directory);
      const scripts = blocks('sh');
      expect(scripts.length).toBeGreaterThan(0);
      const script = `set -eu\n${scripts.join('\n')}`;
      const result = await runProcess('/bin/sh', ['-c', script], {
        cwd: directory.path,
        env: { PATH: `${bin}${delimiter}${process.env['PATH'] ?? ''}` },
        timeoutMs: 60_000,
      });
      expect(result, result.stderr).toMatchObject({ exitCode: 0 });
      expect(result.stdout).toContain('NOT crash-consistent');
      expect(result.stdout).toContain('caught');
    },
    90_000,
  );

  needs(
    'root',
    '/dev/fuse',
    'nbdfuse',
    'losetup',
    'mkfs.ext4',
    'setpriv',
    '/usr/lib/postgresql',
  )(
    'its recipes for file systems and PostgreSQL run',
    async () => {
      await using directory = temporaryDirectory();
      const bin = await programOnPath(directory);
      // The user that PostgreSQL runs as has to get to its files.
      await chmod(directory.path, 0o755);
      const serve = blocks('sh').find((script) => script.includes('cofferdam serve')) ?? '';
      const script = `set -eu
        cleanUp() {
          umount data a b || true
          for file in *.loop; do losetup --detach "$(cat "$file")" || true; done
          for folder in *.fuse; do fusermount3 -u "$folder" || true; done
          kill "$server"
          wait
        }
        truncate --size 1M db.img
        ${serve}
        trap cleanUp EXIT
        ${blocks('bash').join('\n')}`;
      const result = await runProcess('/bin/bash', ['-c', script], {
        cwd: directory.path,
        env: { PATH: `${bin}${delimiter}${process.env['PATH'] ?? ''}${delimiter}/usr/sbin${delimiter}/sbin` },
        timeoutMs: 90_000,
      });
      expect(result, result.stderr).toMatchObject({ exitCode: 0 });
      expect(result.stdout).toContain('crash-consistent: all devices are as of one instant');
    },
    120_000,
  );

  test('its vitest example passes as it stands', async () => {
    const [example] = blocks('ts');
    await using directory = temporaryDirectory();
    // A project of a user, to which the package is linked in place of an installation.
    await mkdir(join(directory.path, 'node_modules'));
    await symlink(root, join(directory.path, 'node_modules', 'cofferdam'));
    await symlink(join(root, 'node_modules', 'vitest'), join(directory.path, 'node_modules', 'vitest'));
    await writeFile(join(directory.path, 'package.json'), '{ "type": "module" }');
    await writeFile(join(directory.path, 'example.test.ts'), example ?? '');
    const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs');
    const result = await runProcess(process.execPath, [vitest, 'run', '--root', directory.path], {
      cwd: directory.path,
      timeoutMs: 60_000,
    });
    expect(result, result.stdout + result.stderr).toMatchObject({ exitCode: 0 });
    expect(result.stdout).toMatch(/3 passed/);
  }, 90_000);

  test('its configuration opens', async () => {
    const [yaml] = blocks('yaml');
    await using directory = temporaryDirectory();
    await mkdir(join(directory.path, 'disks'));
    for (const name of ['db', 'log-1', 'log-2']) {
      await writeFile(join(directory.path, 'disks', `${name}.img`), Buffer.alloc(4096));
    }
    const path = join(directory.path, 'cluster.yaml');
    await writeFile(path, yaml ?? '');
    await using cluster = await openCluster(path);
    expect(cluster.servers.map(({ id, sizeBytes }) => [id, sizeBytes])).toEqual([
      ['db', 4096],
      ['log', 4096],
    ]);
  });

  test('links to files that are there', () => {
    const links = [...readme.matchAll(/\]\(([^)#:]+)\)/g)].map((match) => match[1] ?? '');
    expect(links.length).toBeGreaterThan(3);
    expect(links.filter((link) => !existsSync(join(root, link)))).toEqual([]);
  });
});
