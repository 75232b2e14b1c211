import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Forecast } from '#src/simulation/planning/plan';
import { document, expectDone, expectFailure } from '../cli/expectations.js';
import { runCli } from '../support/cli.js';
import { temporaryDirectory } from '../support/directory.js';
import { expectWellFormed } from '../support/markup.js';

/** What takes time takes exactly as long as asked for, and nothing but what the test adds does. */
const exact = ['--tail', '1', '--message-cost', '0', '--load', '0', '--runs', '2'];

async function plan(...args: string[]): Promise<Forecast[]> {
  const result = await runCli(['simulate', '--json', '--seed', '1', ...args]);
  expectDone(result);
  return document(result)['forecasts'] as Forecast[];
}

async function planOne(...args: string[]): Promise<Forecast> {
  const [forecast, ...others] = await plan(...args);
  expect(others).toEqual([]);
  expect(forecast).toBeDefined();
  return forecast as Forecast;
}

describe('without variance and without load, times are what arithmetic says', () => {
  test.each([
    ['50us', 0.05],
    ['200us', 0.2],
    ['30ms', 30],
  ])('snapshot, round trip %s', async (rtt, rttMs) => {
    const { groupStallMs, barrierMs, stallMs, parkedWrites } = await planOne(
      ...['--servers', '7', '--rtt', rtt, ...exact],
    );
    // A cut and its confirmation, a release and its answer; a barrier is up from the one's arrival to the other's.
    expect(groupStallMs?.max).toBeCloseTo(2 * rttMs, 9);
    expect(groupStallMs?.p50).toBeCloseTo(2 * rttMs, 9);
    expect(barrierMs?.max).toBeCloseTo(rttMs, 9);
    expect([stallMs, parkedWrites]).toEqual([null, 0]);
  });

  test('the coordinator takes its time for each message', async () => {
    const args = ['--rtt', '200us', ...exact, '--message-cost', '1ms'];
    const one = await planOne('--servers', '1', ...args);
    expect(one.groupStallMs?.max).toBeCloseTo(2 * 0.2 + 4, 9);
    expect(one.barrierMs?.max).toBeCloseTo(0.2 + 2, 9);
    // Sending takes longer than the way there and back, so the coordinator is never idle.
    const ten = await planOne('--servers', '10', ...args);
    expect(ten.groupStallMs?.max).toBeCloseTo(4 * 10, 6);
  });

  test('as many servers as may be asked for', { timeout: 600_000 }, async () => {
    const args = ['--servers', '100000', '--rtt', '200us', '--max-stall', '1min', ...exact, '--runs', '1'];
    const cost = ['--message-cost', '10us'];
    const result = await runCli(['simulate', '--json', '--seed', '1', ...args, ...cost], {
      timeoutMs: 600_000,
    });
    expectDone(result);
    const [forecast] = document(result)['forecasts'] as Forecast[];
    expect(forecast).toMatchObject({ servers: 100_000, runs: 1, failedRuns: 0, parkedWrites: 0 });
    expect(forecast?.groupStallMs?.max).toBeCloseTo(4 * 0.01 * 100_000, 3);
  });

  test('hold keeps each barrier up for its own copy and those before it', async () => {
    const { barrierMs, groupStallMs, backupMs } = await planOne(
      ...['--servers', '5', '--strategy', 'hold', '--rtt', '1s', ...exact],
      ...['--device-size', '4GB', '--copy-rate', '1GB/s'],
    );
    // The nth waits for n copies and for n releases, one after the other.
    expect(barrierMs?.max).toBeCloseTo(5 * (4000 + 1000), 6);
    expect(barrierMs?.p50).toBeCloseTo(3 * (4000 + 1000), 6);
    expect(groupStallMs?.max).toBeCloseTo(1000 + 5 * (4000 + 1000), 6);
    expect(backupMs).toBeCloseTo(2000 + 5 * (4000 + 1000), 6);
  });

  test('rolling keeps each barrier up for its own copy, and once more for an instant', async () => {
    const { barrierMs, groupStallMs } = await planOne(
      ...['--servers', '5', '--strategy', 'rolling', '--rtt', '10ms', ...exact],
      ...['--device-size', '4GB', '--copy-rate', '1GB/s'],
    );
    expect(barrierMs?.max).toBeCloseTo(4000 + 10, 6);
    expect(barrierMs?.p50).toBeCloseTo(10, 6);
    expect(groupStallMs?.max).toBeCloseTo(20, 6);
  });
});

describe('clients', () => {
  test('each write that comes while a barrier is up waits for what is left of it', async () => {
    const { parkedWrites, stallMs, barrierMs } = await planOne(
      ...['--servers', '1000', '--rtt', '2ms', ...exact, '--runs', '5'],
      ...['--load', '100', '--write-latency', '1us'],
    );
    // 1000 servers, 100 writes a second, 2 ms: 200 writes, give or take what chance does to 1000 of them.
    expect(parkedWrites).toBeGreaterThan(180);
    expect(parkedWrites).toBeLessThan(220);
    expect(stallMs?.p50).toBeGreaterThan(0.85);
    expect(stallMs?.p50).toBeLessThan(1.15);
    expect(stallMs?.p90).toBeGreaterThan(1.7);
    expect(stallMs?.max).toBeLessThanOrEqual(barrierMs?.max ?? 0);
  });

  test('a cut waits for the writes in flight', async () => {
    const { groupStallMs } = await planOne(
      ...['--servers', '20', '--rtt', '200us', ...exact],
      ...['--clients', '50', '--load', '4500', '--write-latency', '10ms'],
    );
    // Some write among many has only just begun.
    expect(groupStallMs?.max).toBeGreaterThan(0.4 + 9);
    expect(groupStallMs?.max).toBeLessThanOrEqual(0.4 + 10.000001);
  });

  test('under a barrier that stays up every client comes to wait, once', async () => {
    const { parkedWrites, stallMs, barrierMs, parkedShare } = await planOne(
      ...['--servers', '3', '--strategy', 'hold', '--clients', '4', '--load', '100'],
    );
    expect(parkedWrites).toBe(3 * 4);
    expect(stallMs?.max).toBeGreaterThan((barrierMs?.max ?? NaN) - 1000);
    expect(parkedShare).toBeGreaterThan(0);
    expect(parkedShare).toBeLessThan(0.001);
  });

  test("what a snapshot costs does not depend on the device's size, what hold costs does", async () => {
    const [small, large] = await Promise.all(
      ['1GiB', '1TiB'].map((size) =>
        plan('--servers', '10', '--strategy', 'snapshot,hold', '--device-size', size, '--load', '500'),
      ),
    );
    expect(small?.[0]?.parkedWrites).toBeGreaterThan(0);
    expect(large?.[0]).toEqual({
      ...small?.[0],
      backupMs: large?.[0]?.backupMs,
      parkedShare: large?.[0]?.parkedShare,
    });
    expect(large?.[0]?.backupMs).toBeGreaterThan(1000 * (small?.[0]?.backupMs ?? NaN));
    expect(large?.[1]?.stallMs?.p50).toBeGreaterThan(1000 * (small?.[1]?.stallMs?.p50 ?? NaN));
  });

  test('a cut that takes longer than it may fails, and its clients waited all the same', async () => {
    const result = await runCli([
      ...['simulate', '--json', '--seed', '1', '--servers', '50', '--rtt', '10ms', '--max-stall', '12ms'],
      ...['--tail', '1', '--load', '100'],
    ]);
    const { forecasts, warnings } = document(result) as { forecasts: Forecast[]; warnings: string[] };
    expect(warnings).toEqual([expect.stringMatching(/^no backup of 50 servers by snapshot .*--max-stall/)]);
    expect(result.exitCode).toBe(0);
    const { failedRuns, runs, groupStallMs, barrierMs, stallMs } = forecasts[0] as Forecast;
    expect(failedRuns).toBe(runs);
    expect(groupStallMs).toBeNull();
    // The lease ends them, if nobody else does.
    expect(barrierMs?.max).toBeLessThanOrEqual(12.000001);
    expect(stallMs?.p50).toBeGreaterThan(1);
  });

  test('some cuts may take longer than they may, and others not', async () => {
    const { failedRuns, runs, groupStallMs } = await planOne(
      ...['--servers', '1', '--rtt', '10ms', '--max-stall', '22ms'],
    );
    expect(failedRuns).toBeGreaterThan(0);
    expect(failedRuns).toBeLessThan(runs);
    expect(groupStallMs?.max).toBeLessThanOrEqual(22);
  });
});

describe('the command', () => {
  const args = ['simulate', '--servers', '1,20', '--strategy', 'rolling,snapshot', '--load', '1000'];

  test('says the same for the same seed, whatever else is asked for, and prints the seed', async () => {
    const one = await runCli([...args, '--seed', '7']);
    expectDone(one);
    expect(one.stdout).toMatch(/seed 7\n$/);
    expect(await runCli([...args, '--seed', '7'])).toEqual(one);
    expect((await runCli([...args, '--seed', '8'])).stdout).not.toBe(one.stdout);
    const among = await plan(...args.slice(1));
    expect(among.map(({ strategy, servers }) => `${strategy} ${servers}`)).toEqual([
      'rolling 1',
      'rolling 20',
      'snapshot 1',
      'snapshot 20',
    ]);
    expect(await plan('--servers', '20', '--load', '1000')).toEqual([among[3]]);
  });

  test('draws a panel for each strategy, with a line for each percentile', async () => {
    await using directory = temporaryDirectory();
    const file = join(directory.path, 'stalls.svg');
    const drawn = await runCli([...args, '--seed', '7', '--svg', file]);
    expectDone(drawn);
    expect(drawn).toEqual(await runCli([...args, '--seed', '7']));
    const svg = await readFile(file, 'utf8');
    expectWellFormed(svg);
    for (const text of ['snapshot', 'rolling', 'p50', 'p99.9', 'max', 'servers'])
      expect(svg).toContain(`>${text}<`);
    const colours = [...svg.matchAll(/stroke="(#\w{6})"/g)].map(([, colour]) => colour);
    expect(colours).toEqual(expect.arrayContaining(['#9ecae1', '#6baed6', '#3182bd', '#08519c', '#d94801']));
  });

  test('a picture takes the place of nothing but another, which shows before the work', async () => {
    await using directory = temporaryDirectory();
    const file = directory.file('disk.img');
    const draw = async (path: string): ReturnType<typeof runCli> =>
      await runCli(['simulate', '--servers', '3', '--json', '--svg', path]);
    await writeFile(file, 'precious');
    const refused = await draw(file);
    expect(expectFailure(refused, 'TARGET_EXISTS')).toContain('not an SVG picture');
    expect(document(refused)).not.toHaveProperty('forecasts');
    expect(await readFile(file, 'utf8')).toBe('precious');
    expectFailure(await draw('/nonexistent/a.svg'), 'TARGET_WRITE_FAILED');
    const picture = directory.file('a.svg');
    for (let times = 0; times < 2; times++) expectDone(await draw(picture));
    expectWellFormed(await readFile(picture, 'utf8'));
  });

  test.each([
    [['--servers', '0']],
    [['--servers', '10,x']],
    [['--servers', '']],
    [['--servers', '100001']],
    [['--servers', '3', '--strategy', 'hodl']],
    [['--servers', '3', '--rtt', '0']],
    [['--servers', '3', '--rtt', 'fast']],
    [['--servers', '3', '--tail', '0.9']],
    [['--servers', '3', '--load', '-1']],
    [['--servers', '3', '--load', '1e6']],
    [['--servers', '3', '--load', '1000000']],
    [['--servers', '3', '--copy-rate', '0']],
    [['--servers', '3', '--runs', '0']],
    [['--servers', '3', '--seeds', '5']],
    [['--servers', '3', '--trace']],
    [['--rtt', '1ms']],
  ])('refuses %j', async (given) => {
    expectFailure(await runCli(['simulate', ...given]), 'BAD_ARGUMENT', 2);
  });
});
