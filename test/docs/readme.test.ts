import { existsSync } from 'node:fs';
import { chmod, mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { openCluster } from 'cofferdam';
import { temporaryDirectory } from '../support/directory.js';
import { needs } from '../support/needs.js';
import { runProcess } from '../support/process.js';
import { blocks, links, readPage, root, runScript } from './examples.js';

const readme = await readPage('README.md');

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
      const scripts = blocks(readme, 'sh');
      expect(scripts.length).toBeGreaterThan(0);
      const result = await runScript(directory, scripts.join('\n'), { timeoutMs: 60_000 });
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
      // The user that PostgreSQL runs as has to get to its files.
      await chmod(directory.path, 0o755);
      const serve = blocks(readme, 'sh').find((script) => script.includes('cofferdam serve')) ?? '';
      const script = `
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
        ${blocks(readme, 'bash').join('\n')}`;
      const result = await runScript(directory, script, { shell: '/bin/bash', timeoutMs: 90_000 });
      expect(result, result.stderr).toMatchObject({ exitCode: 0 });
      expect(result.stdout).toContain('crash-consistent: all devices are as of one instant');
    },
    120_000,
  );

  test('its vitest example passes as it stands', async () => {
    const [example] = blocks(readme, 'ts');
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
    const [yaml] = blocks(readme, 'yaml');
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
    const found = links(readme);
    expect(found.length).toBeGreaterThan(3);
    expect(found.filter((link) => !existsSync(join(root, link)))).toEqual([]);
  });
});
