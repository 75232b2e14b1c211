import { readdir, stat, truncate } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { runCli } from '../support/cli.js';
import { temporaryDirectory } from '../support/directory.js';
import { document, expectFailure } from './expectations.js';

const run = ['witness', 'run', '--servers', '3', '--seconds', '1'];

test('a snapshot is found consistent, by the run and by a check of the restored files', async () => {
  await using directory = temporaryDirectory();
  const dir = directory.file('run');
  const result = await runCli([...run, '--dir', dir, '--seed', '7']);
  expect(result.stderr).toBe('seed 7\n');
  expect(result.exitCode).toBe(0);
  expect(result.stdout).toMatch(/^crash-consistent: devices disk0, disk1, disk2\n/);

  // The printed command line, as a user would run it.
  const [, line = ''] = /^ {2}cofferdam (witness check .*)$/m.exec(result.stdout) ?? [];
  const check = await runCli(line.split(' '));
  expect(check.stderr).toBe('');
  expect(check.exitCode).toBe(0);
  expect(check.stdout.split('\n')[1]).toBe(result.stdout.split('\n')[1]);

  const again = await runCli([...run, '--dir', dir]);
  expect(again.stderr).toMatch(/^seed \d+\ncofferdam: TARGET_EXISTS: /);
  expect(again.exitCode).toBe(1);
});

test('rolling without closing cut is caught, with the two writes that prove it', async () => {
  await using directory = temporaryDirectory();
  // A copy can be consistent by luck.
  for (let seed = 1; seed <= 5; seed++) {
    const dir = directory.file(`run${seed}`);
    const args = [...run, '--dir', dir, '--seed', String(seed), '--json'];
    const result = await runCli([...args, '--strategy', 'rolling', '--no-closing-cut']);
    const judged = document(result);
    expect(judged).toMatchObject({ seed, backup: { consistency: 'device' }, warnings: [] });
    if (judged['consistent'] === true) continue;

    expect(result.exitCode).toBe(1);
    expect(result.stderr).toMatch(/^seed \d\ncofferdam: NOT_CONSISTENT: .*\n$/);
    expect(judged).toMatchObject({
      consistent: false,
      group: {
        consistent: false,
        witness: { included: { device: 'disk2' }, excluded: { device: 'disk0' } },
      },
      devices: [{ consistent: true }, { consistent: true }, { consistent: true }],
      error: { code: 'NOT_CONSISTENT' },
    });
    const check = await runCli(String(judged['check']).split(' ').slice(1));
    expectFailure(check, 'NOT_CONSISTENT');
    expect(check.stdout).toMatch(
      /^NOT crash-consistent: .*\n {2}missing: write \d+[^]*\n {2}present: write \d+/,
    );
    return;
  }
  expect.fail('five copies without a closing cut were all found consistent');
});

test('a check says what it cannot judge', async () => {
  await using directory = temporaryDirectory();
  const dir = directory.file('run');
  const judged = document(await runCli([...run, '--dir', dir, '--json']));
  const check = String(judged['check']).split(' ').slice(1);
  expect((await readdir(dir)).sort()).toEqual([
    'backup.cofferdam',
    'disk0.img',
    'disk1.img',
    'disk2.img',
    'history.jsonl',
    'restored',
  ]);

  expectFailure(await runCli(check.slice(0, -2)), 'UNKNOWN_DEVICE');
  expectFailure(await runCli([...check, '--image', `disk3=${dir}/disk0.img`]), 'UNKNOWN_DEVICE');
  expectFailure(await runCli([...check.slice(0, -1), 'disk2=nowhere']), 'DEVICE_NOT_FOUND');
  // Swapped disks hold the right stamps in the wrong place.
  const swapped = check.map((word) =>
    word
      .replace(/^disk1=/, 'diskX=')
      .replace(/^disk0=/, 'disk1=')
      .replace(/^diskX=/, 'disk0='),
  );
  const result = await runCli(swapped);
  expectFailure(result, 'NOT_CONSISTENT');
  expect(result.stdout).toContain('misplaced-stamp');

  const history = `${dir}/history.jsonl`;
  await truncate(history, (await stat(history)).size - 3);
  const cut = await runCli([...check, '--json']);
  expect(cut.exitCode).toBe(0);
  expect(cut.stderr).toMatch(/^cofferdam: warning: .*cut off/);
  expect(document(cut)).toMatchObject({ consistent: true, warnings: [expect.stringContaining('cut off')] });
  await truncate(history, 2000);
  expect(expectFailure(await runCli(check), 'BAD_HISTORY')).toContain('no copy completed');
  await truncate(history, 0);
  expectFailure(await runCli(check), 'BAD_HISTORY');
});
