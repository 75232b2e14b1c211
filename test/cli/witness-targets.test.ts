import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { MiB } from '#src/runtime/sizes';
import { program, runCli } from '../support/cli.js';
import { temporaryDirectory } from '../support/directory.js';
import { imageIn, startPeer, type NbdPeer } from '../support/nbd-peers.js';
import { needs } from '../support/needs.js';
import { runProcess } from '../support/process.js';
import { startCli } from '../support/served.js';
import { document, expectFailure } from './expectations.js';

const SIZE = 16 * MiB;

/** How long an export lives is not the witness's business; where it is, is. */
type Target = Pick<NbdPeer, 'uri'>;

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

const nameOf = (index: number): string => 'abc'[index] ?? '';

/** Lets clients write to a, b, ... while a command copies them to files of these names, and judges the copies. */
async function runAndCheck(
  folder: string,
  targets: readonly Target[],
  copy: string,
  seed: number,
): Promise<{ run: Record<string, unknown>; check: Awaited<ReturnType<typeof runCli>> }> {
  const history = `${folder}/history`;
  const uris = targets.map(({ uri }, index) => `${nameOf(index)}=${uri}`);
  const recording = ['--seconds', '1', '--seed', String(seed), '--history', history];
  const run = await runCli(
    ['witness', 'run', ...recording, '--copy', copy, '--force', '--json', '--target', ...uris],
    { cwd: folder },
  );
  expect(run.exitCode, run.stderr).toBe(0);
  const images = targets.map((_, index) => `${nameOf(index)}=${folder}/${nameOf(index)}`);
  const check = await runCli(['witness', 'check', '--history', history, '--json', '--image', ...images]);
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

describe('a cluster that is served', () => {
  const cluster = `servers:
  - { id: a, device: { kind: file, path: a.img, create: 16MiB } }
  - { id: b, device: { kind: file, path: b.img, create: 16MiB } }
  - { id: c, device: { kind: file, path: c.img, create: 16MiB } }`;

  /** Backs the cluster up while clients write to its exports, restores, and judges. */
  async function backUpUnderLoad(seed: number, ...options: string[]): ReturnType<typeof runAndCheck> {
    await using folder = temporaryDirectory();
    await writeFile(folder.file('cluster.yaml'), cluster);
    await using served = await startCli(['serve', 'cluster.yaml'], { cwd: folder.path });
    const targets = ['a', 'b', 'c'].map((id) => ({ uri: served.uriOf(id) }));
    const cofferdam = `${process.execPath} ${program}`;
    const copy = [
      `${cofferdam} backup --cluster cluster.yaml --to x.cofferdam --limit 64MiB/s ${options.join(' ')}`,
      `${cofferdam} restore x.cofferdam --device a=a b=b c=c`,
    ].join(' && ');
    return await runAndCheck(folder.path, targets, copy, seed);
  }

  test.each(['snapshot', 'rolling'])(
    'its backup (%s) is consistent',
    async (strategy) => {
      const { check } = await backUpUnderLoad(1, '--strategy', strategy);
      expect(check.exitCode, check.stderr).toBe(0);
    },
    60_000,
  );

  // Of two devices one is held nearly all of the time, which is enough: it takes three to be wrong.
  test('its backup without a closing cut is caught', async () => {
    for (let seed = 1; seed <= 10; seed++) {
      const { check } = await backUpUnderLoad(seed, '--strategy', 'rolling', '--no-closing-cut');
      if (check.exitCode === 0) continue;
      expectFailure(check, 'NOT_CONSISTENT');
      return;
    }
    expect.fail('ten copies without a closing cut were all found consistent');
  }, 90_000);
});

needs('nbdkit')(
  'what was in flight when a server died may be in the copy or not, and the run goes on',
  async () => {
    await using folder = temporaryDirectory();
    // Writes take a while, so that some are in flight, also on a machine that is busy.
    await using a = await servers.nbdkit(['--filter=delay', 'wdelay=50ms']);
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

needs('nbdkit')('copies are judged where other servers export them', async () => {
  await using folder = temporaryDirectory();
  await using a = await servers.nbdkit([]);
  await using b = await servers.nbdkit([]);
  const both = `${pidOf(a)} ${pidOf(b)}`;
  const copy = `kill -STOP ${both}; cp ${diskOf(a)} a; cp ${diskOf(b)} b; kill -CONT ${both}`;
  await runAndCheck(folder.path, [a, b], copy, 1);
  const serve = (name: string): Promise<NbdPeer> =>
    startPeer((_directory, path) => ({
      address: { kind: 'unix', path },
      command: 'nbdkit',
      args: ['--foreground', '--readonly', '--unix', path, 'file', folder.file(name)],
    }));
  await using copyOfA = await serve('a');
  await using copyOfB = await serve('b');
  const check = (first: NbdPeer, second: NbdPeer): ReturnType<typeof runCli> =>
    runCli([
      'witness',
      'check',
      '--history',
      folder.file('history'),
      '--image',
      `a=${first.uri}`,
      `b=${second.uri}`,
    ]);
  expect((await check(copyOfA, copyOfB)).stdout).toMatch(/^crash-consistent/);
  expectFailure(await check(copyOfB, copyOfA), 'NOT_CONSISTENT');
});

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

needs('nbdkit')('who stops the run stops the command and all that it has started', async () => {
  await using folder = temporaryDirectory();
  await using a = await servers.nbdkit([]);
  const copy = `(while true; do echo x >> ${folder.file('ticks')}; sleep 0.02; done) & wait`;
  const args = ['--history', folder.file('history'), '--target', `a=${a.uri}`, '--copy', copy];
  const child = spawn(process.execPath, [program, 'witness', 'run', '--seconds', '1', ...args]);
  const ended = Promise.all([once(child, 'exit'), text(child.stderr)]);
  const ticks = (): Promise<string> => readFile(folder.file('ticks'), 'utf8').catch(() => '');
  while ((await ticks()) === '') await delay(10);
  child.kill('SIGINT');
  // Its stderr is closed only when nobody has it any more.
  const [[exitCode], stderr] = await ended;
  expect(exitCode).toBe(130);
  expect(stderr).toMatch(/^seed \d+\ncofferdam: CANCELLED: .*\n$/);
  const last = await ticks();
  await delay(200);
  expect(await ticks()).toBe(last);
});

test('a history takes the place of nothing but another history', async () => {
  await using directory = temporaryDirectory();
  await writeFile(directory.file('disk.img'), 'precious');
  await writeFile(
    directory.file('cluster.yaml'),
    'servers: [{ id: a, device: { kind: memory, size: 1MiB } }]\n',
  );
  await using served = await startCli(['serve', 'cluster.yaml'], { cwd: directory.path });
  const args = [
    'witness',
    'run',
    '--target',
    served.uriOf('a'),
    '--seconds',
    '1',
    '--copy',
    'true',
    '--history',
  ];
  const run = async (history: string): ReturnType<typeof runCli> =>
    await runCli([...args, history, '--force'], { cwd: directory.path });
  const refused = await run('disk.img');
  expect(refused.exitCode).toBe(1);
  expect(refused.stderr).toMatch(/\ncofferdam: TARGET_EXISTS: disk\.img exists and is not a history .*\n$/);
  expect(await readFile(directory.file('disk.img'), 'utf8')).toBe('precious');
  for (let times = 0; times < 2; times++) expect((await run('history')).exitCode).toBe(0);
});
