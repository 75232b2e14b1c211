import { spawn } from 'node:child_process';
import { stat } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { program, runCli } from '../support/cli.js';
import { temporaryDirectory } from '../support/directory.js';
import { needs } from '../support/needs.js';
import { runProcess } from '../support/process.js';
import { makePlainDisk } from './disk.js';
import { document, expectDone, expectFailure } from './expectations.js';

/** Runs the program, and sends it a signal as soon as a file has grown. */
async function interrupted(
  args: readonly string[],
  signal: 'SIGINT' | 'SIGTERM',
  growing: string,
): Promise<{ exitCode: number | undefined; stdout: string; stderr: string }> {
  const before = (await stat(growing)).size;
  const child = spawn(process.execPath, [program, ...args]);
  const ended = new Promise<number | undefined>((resolve) => {
    child.on('close', (code) => resolve(code ?? undefined));
  });
  const output = Promise.all([ended, text(child.stdout), text(child.stderr)]);
  while (child.exitCode === null && (await stat(growing)).size === before) await sleep(10);
  child.kill(signal);
  const [exitCode, stdout, stderr] = await output;
  return { exitCode, stdout, stderr };
}

test.each([
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)(
  '%s cancels a backup and leaves the image with its earlier generation',
  async (signal, exitCode) => {
    await using directory = temporaryDirectory();
    const [disk, image] = [directory.file('a.img'), directory.file('x')];
    await makePlainDisk(disk);
    expectDone(await runCli(['backup', '--to', image, '--device', disk]));
    const before = (await stat(image)).size;

    // It would take three seconds.
    const args = ['backup', '--to', image, '--device', disk, '--limit', '1MiB/s', '--json'];
    const result = await interrupted(args, signal, image);
    expect(result.exitCode).toBe(exitCode);
    expect(result.stderr).toMatch(/^cofferdam: CANCELLED: .*\n$/);
    expect(document(result)).toMatchObject({ error: { code: 'CANCELLED' } });

    expect((await stat(image)).size).toBe(before);
    const list = await runCli(['list', image, '--json']);
    expectDone(list);
    expect(document(list)).toMatchObject({ generations: [{ generation: 1 }], warnings: [] });
    expectDone(await runCli(['verify', image]));
    expectDone(await runCli(['backup', '--to', image, '--device', disk]));
  },
);

test('a pipe whose reader has gone is no failure', async () => {
  await using directory = temporaryDirectory();
  await makePlainDisk(directory.file('a.img'));
  const args = ['backup', '--to', directory.file('x'), '--device', directory.file('a.img')];
  const script = '{ "$@"; echo "exit $?" >&2; } | true';
  const result = await runProcess('sh', ['-c', script, 'sh', process.execPath, program, ...args]);
  expect(result.stderr).toBe('exit 0\n');
  expectDone(await runCli(['show', directory.file('x')]));
});

needs('/dev/full')('a stdout that cannot be written to is one', async () => {
  const script = '"$@" > /dev/full';
  const result = await runProcess('sh', ['-c', script, 'sh', process.execPath, program, '--version']);
  expectFailure(result, 'TARGET_WRITE_FAILED');
});
