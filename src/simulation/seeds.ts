import { availableParallelism } from 'node:os';
import { Piscina } from 'piscina';
import { throwIfCancelled } from '../backup/cancellation.js';
import { CofferdamError, messageOf } from '../runtime/errors.js';
import { forEachParallel } from '../runtime/parallel.js';
import type { Violation } from './world/simulation.js';
import type { SeedRange, SeedResult } from './worker.js';

/** Seeds that a thread runs before it tells of them. */
const SEEDS_AT_ONCE = 10;

export interface SeedTotals {
  seeds: number;
  generations: number;
  writes: number;
  events: number;
  simulatedMs: number;
  /** How backups that failed did so, by error code, with how many did. */
  failures: Record<string, number>;
}

export interface FailedSeed {
  seed: number;
  violations: Violation[];
}

export interface SeedRunOptions {
  /** The first seed; the others follow it one by one. */
  first: number;
  count: number;
  /** Default: one per processor. */
  threads?: number;
  /** No more is begun once that many seeds have failed. Default 1. */
  maxFailures?: number;
  signal?: AbortSignal | undefined;
  /** Called now and then. */
  onProgress?: (totals: Readonly<SeedTotals>) => void;
}

/**
 * Simulates the worlds of many seeds on several threads.
 *
 * @throws CofferdamError CANCELLED; SIMULATION_FAILED if a thread ends
 */
export async function runSeeds(
  options: SeedRunOptions,
): Promise<{ totals: SeedTotals; failed: FailedSeed[] }> {
  const { first, count, threads = availableParallelism(), maxFailures = 1, signal, onProgress } = options;
  const totals: SeedTotals = { seeds: 0, generations: 0, writes: 0, events: 0, simulatedMs: 0, failures: {} };
  const failed: FailedSeed[] = [];
  const pool = new Piscina<SeedRange, SeedResult[]>({
    filename: new URL('./worker.js', import.meta.url).href,
    minThreads: threads,
    maxThreads: threads,
  });
  try {
    await forEachParallel(ranges(first, count), threads, async (range) => {
      if (failed.length >= maxFailures) return;
      throwIfCancelled(signal);
      for (const result of await runRange(pool, range)) {
        add(totals, result);
        if (result.violations.length > 0) failed.push({ seed: result.seed, violations: result.violations });
      }
      onProgress?.(totals);
    });
  } catch (error) {
    // A seed that failed is worth more than the others that were to be run.
    if (failed.length === 0) throw error;
  } finally {
    await pool.close();
  }
  return { totals, failed: failed.sort((a, b) => a.seed - b.seed) };
}

async function runRange(pool: Piscina<SeedRange, SeedResult[]>, range: SeedRange): Promise<SeedResult[]> {
  try {
    return await pool.run(range);
  } catch (error) {
    // What goes wrong in a world is a violation; this is a thread that ended, as it does when memory runs out.
    const which = `seeds ${range.first} to ${range.first + range.count - 1}`;
    throw new CofferdamError(
      'SIMULATION_FAILED',
      `the thread that ran ${which} ended: ${messageOf(error)}; run each of them alone to see in which it does`,
      { cause: error },
    );
  }
}

function* ranges(first: number, count: number): Generator<SeedRange> {
  for (let done = 0; done < count; done += SEEDS_AT_ONCE) {
    yield { first: first + done, count: Math.min(SEEDS_AT_ONCE, count - done) };
  }
}

function add(totals: SeedTotals, result: SeedResult): void {
  totals.seeds++;
  totals.generations += result.generations;
  totals.writes += result.writes;
  totals.events += result.events;
  totals.simulatedMs += result.simulatedMs;
  for (const [code, count] of Object.entries(result.failures)) {
    totals.failures[code] = (totals.failures[code] ?? 0) + count;
  }
}
