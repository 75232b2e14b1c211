import { writeFile } from 'node:fs/promises';
import { describe, expect } from 'vitest';
import { MiB } from '#src/runtime/sizes';
import { runCli } from '../support/cli.js';
import { temporaryDirectory } from '../support/directory.js';
import { imageIn, startPeer, type NbdPeer } from '../support/nbd-peers.js';
import { needs } from '../support/needs.js';
import { runProcess } from '../support/process.js';
import { document, expectFailure } from './expectations.js';

const SIZE = 16 * MiB;

/** A server of somebody else that serves one file, `disk.img` in its directory, and whose number is in `pid` there. */
const servers = {
  nbdkit: (options: readonly string[]) =>
    startPeer(async (directory, path) => ({
      address: { kind: 'unix', path },
      command: 'nbdkit',
      args: ['--foreground', '--unix', path, '--pidfile', directory.file('pid')].concat(
        ['file', await imageIn(directory, SIZE)],
        options,
      ),
    })),
  'qemu-nbd': (options: readonly string[]) =>
    startPeer(async (directory, path) => ({
      address: { kind: 'unix', path },
      command: 'qemu-nbd',
      args: ['--format=raw', '--persistent', '--shared=8', `--socket=${path}`].concat(
        [`--pid-file=${directory.file('pid')}`],
        options,
        await imageIn(directory, SIZE),
      ),
    })),
} as const;

const diskOf = (peer: NbdPeer): string => peer.directory.file('disk.img');
const pidOf = (peer: NbdPeer): string => `$(cat ${peer.directory.file('pid')})`;

/** Lets clients write to both peers while a command copies them to `a` and `b`, and judges the copies. */
async function runAndCheck(
  folder: string,
  [a, b]: readonly [NbdPeer, NbdPeer],
  copy: string,
  seed: number,
): Promise<{ run: Record<string, unknown>; check: Awaited<ReturnType<typeof runCli>> }> {
  const history = `${folder}/history`;
  const run = await runCli(
    ['witness', 'run', '--seconds', '1', '--history', history, '--json', '--force'].concat([
      '--seed',
      String(seed),
      '--copy',
      copy,
      '--target',
      `a=${a.uri}`,
      `b=${b.uri}`,
    ]),
    { cwd: folder },
  );
  expect(run.exitCode, run.stderr).toBe(0);
  const images = ['--image', `a=${folder}/a`, `b=${folder}/b`];
  const check = await runCli(['witness', 'check', '--history', history, '--json', ...images]);
  return { run: document(run), check };
}

describe.each(['nbdkit', 'qemu-nbd'] as const)('exports of %s', (name) => {
  needs(name)(
    'a copy that is taken while all servers stand still is consistent',
    async () => {
      await using folder = temporaryDirectory();
      await using a = await servers[name]([]);
      await using b = await servers[name]([]);
      const both = `${pidOf(a)} ${pidOf(b)}`;
      const copy = `kill -STOP ${both}; cp ${diskOf(a)} a; cp ${diskOf(b)} b; kill -CONT ${both}`;
      const { run, check } = await runAndCheck(folder.path, [a, b], copy, 1);
      expect(run).toMatchObject({ seed: 1, workload: { failedWrites: 0, violations: 0 } });
      expect((run['workload'] as { writes: number }).writes).toBeGreaterThan(100);
      expect(check.exitCode, check.stderr).toBe(0);
      expect(document(check)).toMatchObject({ consistent: true });
    },
    60_000,
  );

  needs(name, 'nbdcopy')(
    'a copy of one export after the other is caught',
    async () => {
      await using folder = temporaryDirectory();
      await using a = await servers[name]([]);
      await using b = await servers[name]([]);
      const copy = `nbdcopy '${a.uri}' a; nbdcopy '${b.uri}' b`;
      // A copy can be consistent by luck.
      for (let seed = 1; seed <= 10; seed++) {
        const { check } = await runAndCheck(folder.path, [a, b], copy, seed);
        if (check.exitCode === 0) continue;
        expectFailure(check, 'NOT_CONSISTENT');
        expect(document(check)).toMatchObject({
          consistent: false,
          devices: [{ consistent: expect.any(Boolean) as unknown }, {}],
        });
        return;
      }
      expect.fail('ten copies of one export after the other were all found consistent');
    },
    90_000,
  );
});

needs('nbdkit')(
  'what was in flight when a server died may be in the copy or not, and the run goes on',
  async () => {
    await using folder = temporaryDirectory();
    // Writes take a while, so that some are in flight.
    await using a = await servers.nbdkit(['--filter=delay', 'wdelay=5ms']);
    await using b = await servers.nbdkit([]);
    const socket = a.directory.file('nbd.sock');
    const again = `$(cat ${folder.file('pid')})`;
    const copy = [
      `kill -KILL ${pidOf(a)}`,
      `rm ${socket}; nbdkit --unix ${socket} --pidfile ${folder.file('pid')} file ${diskOf(a)} >/dev/null 2>&1`,
      'sleep 1',
      `kill -STOP ${again} ${pidOf(b)}; cp ${diskOf(a)} a; cp ${diskOf(b)} b; kill -CONT ${again} ${pidOf(b)}`,
    ].join('\n');
    try {
      const { run, check } = await runAndCheck(folder.path, [a, b], copy, 1);
      const { failedWrites, firstFailure } = run['workload'] as Record<string, unknown>;
      expect(failedWrites).toBeGreaterThan(0);
      expect(firstFailure).toMatch(/connection/);
      expect(check.exitCode, check.stderr).toBe(0);
      expect(document(check)).toMatchObject({ consistent: true });
    } finally {
      await runProcess('/bin/sh', ['-c', `kill -KILL ${again}`]);
    }
  },
  60_000,
);

needs('nbdkit')('what an export holds is overwritten only with --force', async () => {
  await using folder = temporaryDirectory();
  await using a = await servers.nbdkit([]);
  await writeFile(diskOf(a), Buffer.alloc(SIZE, 7));
  const args = ['--history', folder.file('history'), '--copy', 'true', '--target', `a=${a.uri}`];
  const refused = await runCli(['witness', 'run', '--seconds', '1', ...args]);
  expect(refused.stderr).toMatch(/\ncofferdam: TARGET_EXISTS: a: /);
  expect(refused.exitCode).toBe(1);
});

needs('nbdkit')('a command that fails ends the run', async () => {
  await using folder = temporaryDirectory();
  await using a = await servers.nbdkit([]);
  const args = ['--history', folder.file('history'), '--target', `a=${a.uri}`, '--copy', 'echo no; exit 3'];
  const failed = await runCli(['witness', 'run', '--seconds', '1', '--seed', '1', ...args]);
  expect(failed.stdout).toBe('');
  expect(failed.stderr).toBe(
    'seed 1\nno\ncofferdam: COMMAND_FAILED: the command ended with exit code 3: echo no; exit 3\n',
  );
  expect(failed.exitCode).toBe(1);
});
