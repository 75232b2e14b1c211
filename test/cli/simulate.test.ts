import { describe, expect, test } from 'vitest';
import { runCli } from '../support/cli.js';
import { document, expectDone, expectFailure } from './expectations.js';

describe('cofferdam simulate', () => {
  test('runs the worlds of some seeds and says what came of them', async () => {
    const result = await runCli(['simulate', '--seeds', '6', '--seed', '1']);
    expect(result.stderr).toBe('seeds 1 to 6\n');
    expect(result.exitCode).toBe(0);
    expect(result.stdout).toMatch(/^All invariants held in 6 worlds, seeds 1 to 6: /);
  });

  test('with --json gives the totals', async () => {
    const result = await runCli(['simulate', '--seeds', '4', '--seed', '1', '--json']);
    expect(result.exitCode).toBe(0);
    expect(document(result)).toMatchObject({
      first: 1,
      seeds: 4,
      failed: [],
      generations: expect.any(Number),
    });
  });

  test('replays one seed, the same way every time', async () => {
    const runs = await Promise.all([1, 2].map(() => runCli(['simulate', '--seed', '5', '--trace'])));
    for (const run of runs) {
      expectDone(run);
      expect(run.stdout).toMatch(/^trace [0-9a-f]{32}$/m);
    }
    expect(runs[0]?.stdout).toBe(runs[1]?.stdout);
  });

  test('runs a seed in a world that was given, and fails when an invariant is broken', async () => {
    const seed = ['simulate', '--seed', '3', '--json'];
    const { world } = document(await runCli(seed)) as { world: { network: object } };
    const slow = { ...world, network: { ...world.network, latencyMs: 100_000 } };
    const result = await runCli([...seed, '--world', JSON.stringify(slow)]);
    expectFailure(result, 'SIMULATION_FAILED');
    expect(document(result)).toMatchObject({
      violations: expect.arrayContaining([expect.objectContaining({ invariant: 'liveness' })]),
    });
  });

  test.each([
    { args: ['--world', '{}'], why: 'a world without a seed' },
    { args: ['--trace'], why: 'a trace without a seed' },
    { args: ['--seed', '1', '--world', 'x'], why: 'a world that is not JSON' },
    { args: ['--seed', '1', '--world', '{"servers":3}'], why: 'half a world' },
    { args: ['--seeds', '0'], why: 'no seeds' },
    { args: ['--seed', '-1'], why: 'a seed below 0' },
  ])('refuses $why', async ({ args }) => {
    expectFailure(await runCli(['simulate', ...args]), 'BAD_ARGUMENT', 2);
  });
});
