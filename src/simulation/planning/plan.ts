import { throwIfCancelled } from '../../backup/cancellation.js';
import type { Strategy } from '../../backup/image/record.js';
import { Random } from '../../runtime/random.js';
import type { Assumptions } from './assumptions.js';
import { quantilesOf, type Quantiles } from './quantiles.js';
import { runTrial, type Trial } from './trial.js';

/** What a strategy would cost the clients of so many servers, over all runs. */
export interface Forecast {
  strategy: Strategy;
  servers: number;
  runs: number;
  /** How many of the runs failed because barriers would have been up for too long. */
  failedRuns: number;
  /** How many writes waited for a barrier, per run. */
  parkedWrites: number;
  /** Part of the writes during a backup that waited for a barrier, from 0 to 1. */
  parkedShare: number;
  /** How long those waited, in ms; null if none did. */
  stallMs: Quantiles | null;
  /** How long barriers were up, each time one was, in ms; null if none was. */
  barrierMs: Quantiles | null;
  /** From the first raise to the last release of the cut over all, in ms, over the runs that did not fail. */
  groupStallMs: Quantiles | null;
  /** Mean time of a backup, in ms. */
  backupMs: number;
}

export interface PlanOptions {
  strategies: readonly Strategy[];
  serverCounts: readonly number[];
  assumptions: Assumptions;
  /** How many backups of each kind are simulated. Default: up to ten, fewer of many servers, which tell as much. */
  runs: number | undefined;
  seed: number;
  signal: AbortSignal;
}

/**
 * Simulates backups and sums up how long clients' writes waited. The same options give the same answer.
 *
 * @throws CofferdamError BAD_ARGUMENT, CANCELLED
 */
export async function plan(options: PlanOptions): Promise<Forecast[]> {
  const forecasts: Forecast[] = [];
  for (const strategy of options.strategies) {
    for (const servers of options.serverCounts) {
      forecasts.push(await forecast(strategy, servers, options));
    }
  }
  return forecasts;
}

async function forecast(strategy: Strategy, servers: number, options: PlanOptions): Promise<Forecast> {
  const { assumptions, seed, signal } = options;
  const runs = options.runs ?? Math.min(10, Math.ceil(20_000 / servers));
  // Anew for each, so that a line of the answer does not depend on what else was asked for.
  const random = new Random(seed);
  const trials: Trial[] = [];
  for (let run = 0; run < runs; run++) {
    throwIfCancelled(signal);
    trials.push(await runTrial(strategy, servers, assumptions, random.fork(), signal));
  }
  const parkedMs = trials.flatMap((trial) => trial.parkedMs);
  const holdsMs = trials.flatMap((trial) => trial.holdsMs);
  const backupMs = sum(trials.map((trial) => trial.backupMs));
  // While a barrier is up there are no writes but those it parks.
  const freeMs = Math.max(0, servers * backupMs - sum(holdsMs));
  const writes = parkedMs.length + (freeMs / 1000) * assumptions.writesPerSecond;
  return {
    strategy,
    servers,
    runs,
    failedRuns: trials.filter((trial) => trial.failure).length,
    parkedWrites: parkedMs.length / runs,
    parkedShare: writes === 0 ? 0 : parkedMs.length / writes,
    stallMs: quantilesOf(parkedMs) ?? null,
    barrierMs: quantilesOf(holdsMs) ?? null,
    groupStallMs: quantilesOf(trials.flatMap(({ groupStallMs }) => groupStallMs ?? [])) ?? null,
    backupMs: backupMs / runs,
  };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
