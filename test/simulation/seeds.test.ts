import { beforeAll, describe, expect, test } from 'vitest';
import { loadCore } from '#src/core/load';
import type { Core } from '#src/core/core';
import { runSeeds } from '#src/simulation/seeds';
import { shrink } from '#src/simulation/shrink';
import { simulate } from '#src/simulation/world/simulation';
import { swarmConfig, type SwarmConfig } from '#src/simulation/world/swarm';
import { testSeed } from '../support/seed.js';
import { pastFailures } from './past-failures.js';

/** `RUNS=100000 npx vitest run test/simulation/seeds.test.ts` goes on for an hour. */
const RUNS = Number(process.env['RUNS'] ?? (process.env['CI'] === 'true' ? 2000 : 200));

let core: Core;
beforeAll(async () => {
  core = await loadCore();
});

const hour = 3_600_000;

test(`all invariants hold in ${RUNS} fresh worlds`, { timeout: hour }, async () => {
  const { totals, failed } = await runSeeds({ first: testSeed(), count: RUNS, maxFailures: 10 });
  console.log('simulated:', JSON.stringify(totals));
  expect(
    failed.map(({ seed, violations }) => `cofferdam simulate --seed ${seed}: ${violations[0]?.what}`),
  ).toEqual([]);
  expect(totals.seeds).toBe(RUNS);
  // Worlds in which nothing is ever committed, or nothing ever goes wrong, would prove nothing.
  expect(totals.generations).toBeGreaterThan(2 * RUNS);
  expect(Object.keys(totals.failures)).toEqual(
    expect.arrayContaining(['CUT_VOID', 'EPOCH_STALE', 'CONNECTION_LOST', 'SNAPSHOT_BROKEN', 'TARGET_FULL']),
  );
});

test.each(pastFailures)('seed $seed does no more fail: $what', async ({ seed }) => {
  const { violations, trace } = await simulate(seed, swarmConfig(seed), core);
  expect(violations, trace.join('\n')).toEqual([]);
});

describe('a seed', () => {
  test('gives the same run every time, on whatever thread', { timeout: hour }, async () => {
    const first = testSeed() + 1_000_000;
    for (let seed = first; seed < first + 10; seed++) {
      const runs = [];
      for (let run = 0; run < 2; run++) runs.push(await simulate(seed, swarmConfig(seed), core));
      const { default: runRange } = await import('#src/simulation/worker');
      const [elsewhere] = await runRange({ first: seed, count: 1 });
      const hashes = [...runs.map(({ traceHash }) => traceHash), elsewhere?.traceHash];
      expect(new Set(hashes).size, `seed ${seed}: ${hashes.join(', ')}`).toBe(1);
      expect(runs[0]?.trace).toEqual(runs[1]?.trace);
    }
  });

  test('gives another run than the next one', async () => {
    const hashes = new Set<string>();
    for (let seed = 1; seed <= 5; seed++)
      hashes.add((await simulate(seed, swarmConfig(seed), core)).traceHash);
    expect(hashes.size).toBe(5);
  });
});

describe('a world in which no backup can succeed', () => {
  /** No answer comes before a coordinator's patience ends. */
  const impossible: SwarmConfig = {
    ...swarmConfig(7),
    servers: 3,
    layout: 'apart',
    strategies: ['snapshot'],
    serverDisk: { latencyMs: 5, errorShare: 0.01 },
    network: { latencyMs: 100_000, loss: 0.01, duplication: 0.02, heldUp: 0.01 },
    faults: {
      partitionMs: 800,
      serverCrashMs: 0,
      coordinatorCrashMs: 500,
      stuckDiskMs: 500,
      freezeMs: 500,
      commitCrashShare: 0.2,
    },
  };

  test('is found, told of, and shrunk to what makes it so', { timeout: hour }, async () => {
    const { violations, trace } = await simulate(7, impossible, core);
    expect(violations).toContainEqual({
      invariant: 'liveness',
      what: expect.stringContaining('cannot make a backup'),
    });
    expect(trace.filter((line) => line.includes('VIOLATION'))).toHaveLength(violations.length);
    const simplest = await shrink(7, impossible, 'liveness', core);
    expect(simplest).toMatchObject({
      serverDisk: { latencyMs: 0, errorShare: 0 },
      network: { latencyMs: 100_000, loss: 0, duplication: 0, heldUp: 0 },
      faults: { partitionMs: 0, coordinatorCrashMs: 0, stuckDiskMs: 0, freezeMs: 0, commitCrashShare: 0 },
      coordinators: 1,
    });
    expect((await simulate(7, simplest, core)).violations.map(({ invariant }) => invariant)).toContain(
      'liveness',
    );
  });
});
