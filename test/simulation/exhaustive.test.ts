import { describe, expect, test } from 'vitest';
import {
  holdStrategy,
  rollingStrategy,
  rollingStrategyWithoutClosingCut,
  snapshotStrategy,
} from '#src/backup/strategies';
import { explore, type Explored } from './explorer.js';
import { dependent, SmallWorld, type Place, type Plan } from './small-world.js';
import {
  doNotDrain,
  doNotLookAtTheBarrier,
  doNotWaitForPreImages,
  keepSnapshots,
  lookOnlyBefore,
  loseWrites,
  parkForEver,
  parkNothing,
  refuseInsteadOfParking,
  releaseBeforeTheLast,
  releaseEachAtOnce,
  snapshotOneByOne,
  vouchForAnything,
} from './wrong-ways.js';

/** With RUNS set, larger worlds are explored too, each up to so many runs. */
const largeRuns = Number(process.env['RUNS'] ?? 0);
const largeTimeout = 24 * 3600 * 1000;
const timeout = 600_000;

// Errors are part of many runs, and nobody looks at where they come from.
Error.stackTraceLimit = 0;

/** A client that writes to its sector of one server after the other. */
function client(sector: number, ...servers: number[]): Place[] {
  return servers.map((server) => ({ server, sector }));
}

/** The second write may be sent only because of the first. */
const chain = [client(0, 0, 1)];
const chainAndWrite = [client(0, 0, 1), client(1, 1)];
const crossing = [client(0, 0, 1), client(1, 1, 0)];
/** Of three servers. */
const chainAndThird = [client(0, 0, 1), client(1, 2)];
const longChains = [client(0, 0, 1, 2), client(1, 2, 0)];

interface Tally extends Explored {
  consistent: number;
  inconsistent: number;
  /** Copies that failed, by code. */
  failed: Map<string, number>;
  /** What copies held and how they were judged. */
  copies: Set<string>;
}

async function exploreAll(name: string, plan: Plan, limitRuns = Infinity, isReduced = true): Promise<Tally> {
  const tally = {
    consistent: 0,
    inconsistent: 0,
    failed: new Map<string, number>(),
    copies: new Set<string>(),
  };
  let example: readonly string[] | undefined;
  const startedAtMs = performance.now();
  const explored = await explore({
    begin: () => SmallWorld.begin(plan),
    dependent: isReduced ? dependent : () => true,
    limitRuns,
    onOutcome({ verdict, copy }, trace) {
      tally.copies.add(`${copy}, ${verdict?.consistent ?? 'failed'}`);
      if (!verdict) tally.failed.set(copy, (tally.failed.get(copy) ?? 0) + 1);
      else if (verdict.consistent) tally.consistent++;
      else tally.inconsistent++;
      if (verdict?.consistent === false) example ??= trace;
    },
  });
  const seconds = ((performance.now() - startedAtMs) / 1000).toFixed(1);
  const failed = [...tally.failed].map(([code, count]) => `, ${count} ${code}`).join('');
  console.log(
    `${name}: ${explored.runs} runs${explored.isComplete ? '' : ' (not all)'}, ${explored.repeats} cut short: ` +
      `${tally.consistent} consistent, ${tally.inconsistent} inconsistent${failed}; ` +
      `${tally.copies.size} different ends; ${seconds} s${example ? `\n  inconsistent: ${example.join('; ')}` : ''}`,
  );
  return { ...explored, ...tally };
}

const strategies = { snapshot: snapshotStrategy, hold: holdStrategy, rolling: rollingStrategy };

describe('every copy is crash-consistent, and no write is harmed, whatever the order of events', () => {
  async function expectAllConsistent(name: string, plan: Plan, limitRuns?: number): Promise<void> {
    const tally = await exploreAll(name, plan, limitRuns);
    expect(tally.isComplete || tally.runs === limitRuns).toBe(true);
    expect(tally.consistent).toBe(tally.runs);
    // Some copies have a write and others do not, or there was nothing to judge.
    expect(tally.copies.size).toBeGreaterThan(1);
  }

  const worlds: Record<string, Plan> = {
    'snapshot, clients cross': { servers: 2, clients: crossing, copy: snapshotStrategy },
    'snapshot, three servers': { servers: 3, clients: chainAndThird, copy: snapshotStrategy },
    'hold, clients cross': { servers: 2, clients: crossing, copy: holdStrategy },
    'hold, three servers': { servers: 3, clients: chainAndThird, copy: holdStrategy },
    'rolling, a chain and a write': { servers: 2, clients: chainAndWrite, copy: rollingStrategy },
    'rolling, three servers': { servers: 3, clients: chainAndThird, copy: rollingStrategy },
  };
  for (const [name, copy] of Object.entries(strategies)) {
    // One write goes to both blocks, the other to one of them.
    const clients = [[{ server: 0, sector: 7, sectors: 2 }], client(0, 0)];
    worlds[`${name}, slow reads of two blocks`] = { servers: 1, clients, copy, blocks: 2, slowReads: true };
  }
  test.each(Object.entries(worlds))('%s', { timeout }, (name, plan) => expectAllConsistent(name, plan));

  const largeWorlds: Record<string, Plan> = {
    'rolling, clients cross': { servers: 2, clients: crossing, copy: rollingStrategy },
    'snapshot, three servers, long chains': { servers: 3, clients: longChains, copy: snapshotStrategy },
    'hold, three servers, long chains': { servers: 3, clients: longChains, copy: holdStrategy },
  };
  for (const [name, plan] of Object.entries(largeWorlds)) {
    test.skipIf(largeRuns === 0)(name, { timeout: largeTimeout }, () =>
      expectAllConsistent(name, plan, largeRuns),
    );
  }
});

describe('a copy is crash-consistent or fails, and the writes of all others succeed', () => {
  const ofLease = ['CUT_ABORTED', 'CUT_VOID'];
  const ofPower = [...ofLease, 'POWER_CUT'];
  const cases = [
    ['snapshot', chainAndWrite, ofLease, [...ofPower, 'SNAPSHOT_BROKEN']],
    ['hold', chainAndWrite, ofLease, ofPower],
    ['rolling', chain, ofLease, [...ofPower, 'SNAPSHOT_BROKEN']],
  ] as const;

  for (const [name, clients, leaseCodes, powerCodes] of cases) {
    const plan = { servers: 2, clients, copy: strategies[name] };

    test.each([0, 1])(
      `${name}, the lease of server %i may run out at any time`,
      { timeout },
      async (leaseAt) => {
        const tally = await exploreAll(`${name}, lease of s${leaseAt}`, { ...plan, leaseAt });
        expect(tally.inconsistent).toBe(0);
        expect(tally.consistent).toBeGreaterThan(0);
        expect([...tally.failed.keys()].sort()).toEqual(leaseCodes);
      },
    );

    test(`${name}, the power of a server may be cut at any time`, { timeout }, async () => {
      const tally = await exploreAll(`${name}, power cut at s0`, { ...plan, powerCutAt: 0 });
      expect(tally.inconsistent).toBe(0);
      expect(tally.consistent).toBeGreaterThan(0);
      expect([...tally.failed.keys()].sort()).toEqual(powerCodes);
    });
  }
});

describe('what is done wrong is found out', () => {
  const three = { servers: 3, clients: chainAndThird };
  const two = { servers: 2, clients: chainAndWrite };
  const rolling = { servers: 2, clients: chain, copy: rollingStrategy };
  const vouching = { ...two, disguise: vouchForAnything };
  const wrongWays: [what: string, plan: Plan, spoil?: () => Disposable][] = [
    ['rolling without its closing cut, two servers', { ...two, copy: rollingStrategyWithoutClosingCut }],
    ['rolling without its closing cut, three servers', { ...three, copy: rollingStrategyWithoutClosingCut }],
    ['each server is released as soon as it has confirmed', { ...two, copy: releaseEachAtOnce }],
    ['all are released before the last has confirmed', { ...three, copy: releaseBeforeTheLast }],
    ['snapshots are taken one after the other', { ...two, copy: snapshotOneByOne }],
    ['snapshot, writes are not parked', { ...two, copy: snapshotStrategy }, parkNothing],
    [
      'snapshot, writes do not wait for pre-images',
      { ...two, copy: snapshotStrategy },
      doNotWaitForPreImages,
    ],
    [
      'snapshot, blocks are looked up only before they are read',
      { ...two, copy: snapshotStrategy, disguise: lookOnlyBefore },
    ],
    ['snapshot, a broken hold is vouched for', { ...vouching, leaseAt: 0, copy: snapshotStrategy }],
    [
      'hold, a broken hold is vouched for and copied',
      { ...vouching, leaseAt: 1, copy: holdStrategy },
      doNotLookAtTheBarrier,
    ],
    ['rolling, writes are not drained', rolling, doNotDrain],
  ];
  test.each(wrongWays)('%s', { timeout }, async (what, plan, spoil) => {
    using _ = spoil?.();
    const tally = await exploreAll(what, plan);
    expect(tally.inconsistent).toBeGreaterThan(0);
  });
});

describe('harm to clients is found out', () => {
  const harms: [what: string, spoil: () => Disposable, found: RegExp][] = [
    ['writes are refused', refuseInsteadOfParking, /^a write failed/],
    ['writes are parked for ever', parkForEver, /^a client waits for ever/],
    ['writes are lost', loseWrites, /^the devices themselves are not as written/],
    ['snapshots are kept', keepSnapshots, /^server s0 is left with/],
  ];
  test.each(harms)('%s', { timeout }, async (what, spoil, found) => {
    using _ = spoil();
    const plan = { servers: 2, clients: chain, copy: snapshotStrategy };
    await expect(exploreAll(what, plan)).rejects.toThrow(found);
  });
});

describe('to try one order of each class shows all that there is to see', () => {
  const plans = {
    snapshot: { copy: snapshotStrategy },
    hold: { copy: holdStrategy },
    'hold, lease': { copy: holdStrategy, leaseAt: 1 },
    'hold, power': { copy: holdStrategy, powerCutAt: 0 },
    'rolling without its closing cut': { copy: rollingStrategyWithoutClosingCut },
    'released at once': { copy: releaseEachAtOnce },
  };
  test.each(Object.entries(plans))('%s', { timeout }, async (name, options) => {
    const plan = { servers: 2, clients: chain, ...options };
    const all = await exploreAll(`${name}, every single order`, plan, Infinity, false);
    const few = await exploreAll(`${name}, one of each class`, plan);
    expect([...few.copies].sort()).toEqual([...all.copies].sort());
    expect(few.runs).toBeLessThan(all.runs);
  });
});
