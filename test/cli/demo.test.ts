import { mkdir, readdir, readFile, stat } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { program, runCli } from '../support/cli.js';
import { temporaryDirectory } from '../support/directory.js';
import { needs } from '../support/needs.js';
import { runProcess } from '../support/process.js';
import { makeFileSystem, makePlainDisk } from './disk.js';
import { document, expectFailure } from './expectations.js';

const LIMIT_MS = 180_000;

/** What every demo must come to, whatever the disks. */
function expectPromisesKept(report: Record<string, unknown>, ids: readonly string[]): void {
  const devices = ids.map((id) => ({ id }));
  expect(report).toMatchObject({
    disks: devices,
    snapshot: {
      consistent: true,
      backup: { strategy: 'snapshot', consistency: 'group', devices },
      workload: { failedWrites: 0, violations: 0 },
      restored: devices,
    },
    rolling: {
      backup: { strategy: 'rolling', consistency: 'device' },
      devices: ids.map(() => ({ consistent: true })),
    },
    warnings: [],
  });
}

describe('demo', () => {
  needs('mke2fs', 'e2fsck')(
    'shows a copy that is consistent and one that is not, on file systems of its own',
    async () => {
      await using directory = temporaryDirectory();
      const result = await runCli(['demo', '--json', '--seed', '1'], {
        env: { TMPDIR: directory.path },
        timeoutMs: LIMIT_MS,
      });
      expect(result.exitCode, result.stderr).toBe(0);
      const report = document(result);
      expectPromisesKept(report, ['disk0', 'disk1', 'disk2', 'disk3']);
      expect(report).toMatchObject({
        seed: 1,
        disks: Array.from({ length: 4 }, () => ({ fileSystem: 'clean' })),
        snapshot: { restored: Array.from({ length: 4 }, () => ({ fileSystem: 'clean' })) },
        rolling: { consistent: false },
      });
      expect(result.stderr).toContain('NOT crash-consistent');
      expect(await readdir(directory.path)).toEqual([]);
    },
    LIMIT_MS,
  );

  needs('mke2fs', 'e2fsck')(
    "only reads the user's own images",
    async () => {
      await using directory = temporaryDirectory();
      const [a, b, c] = [directory.file('a.img'), directory.file('b.img'), directory.file('c.img')];
      await makeFileSystem(a);
      // Not a whole number of sectors.
      await makePlainDisk(b, 1_000_001, 3);
      await makePlainDisk(c);
      const paths = [a, b, c];
      const before = await Promise.all(
        paths.map(async (path) => [await readFile(path), await stat(path)] as const),
      );

      await mkdir(directory.file('tmp'));
      const result = await runCli(['demo', ...paths, '--keep', '--json'], {
        env: { TMPDIR: directory.file('tmp') },
        timeoutMs: LIMIT_MS,
      });
      expect(result.exitCode, result.stderr).toBe(0);
      const report = document(result);
      expectPromisesKept(report, ['a', 'b', 'c']);
      expect(report).toMatchObject({ disks: [{ fileSystem: 'clean' }, {}, {}], isFolderKept: true });

      for (const [i, path] of paths.entries()) {
        const [bytes, { mtimeMs }] = before[i] ?? expect.fail('no such image');
        expect((await stat(path)).mtimeMs).toBe(mtimeMs);
        expect(bytes.equals(await readFile(path))).toBe(true);
        const restored = await readFile(`${String(report['folder'])}/restored/${['a', 'b', 'c'][i]}.img`);
        expect(restored.subarray(0, bytes.length).equals(bytes)).toBe(true);
      }
    },
    LIMIT_MS,
  );

  test('cleans up when its reader has seen enough', async () => {
    await using directory = temporaryDirectory();
    const script = '"$@" | head -n 1';
    const result = await runProcess('sh', ['-c', script, 'sh', process.execPath, program, 'demo'], {
      env: { TMPDIR: directory.path },
    });
    expect(result.stdout.split('\n')).toHaveLength(2);
    expect(result.stderr).toBe('');
    expect(await readdir(directory.path)).toEqual([]);
  });

  test('an image that is not there, and one that is there twice', async () => {
    await using directory = temporaryDirectory();
    const env = { TMPDIR: directory.path };
    expectFailure(await runCli(['demo', 'nowhere.img'], { env }), 'DEVICE_NOT_FOUND');
    expectFailure(await runCli(['demo', 'a.img', 'b/a.img'], { env }), 'DUPLICATE_DEVICE', 2);
    expect(await readdir(directory.path)).toEqual([]);
  });
});
