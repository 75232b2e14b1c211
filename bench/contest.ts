import { Bench } from 'tinybench';

/** Something to measure against others. */
export interface Contestant {
  name: string;
  run: () => unknown;
  /** Whether `run` returns a promise. Default true. */
  async?: boolean;
  /** Before each run, not measured. */
  before?: () => Promise<void> | void;
  /** After each run, not measured. */
  after?: () => Promise<void> | void;
}

export interface ContestOptions {
  rounds: number;
  /** How long a contestant is run in a round, in ms. Default 0. */
  timeMs?: number;
  /** How often it is run in a round at least. Default 1. */
  iterations?: number;
}

/**
 * Measures contestants one after the other, round by round: A B A B. Before the first round each is run once to warm up.
 *
 * @returns per contestant the median time of a run in each round, in ms.
 */
export async function contest(
  contestants: readonly Contestant[],
  { rounds, timeMs = 0, iterations = 1 }: ContestOptions,
): Promise<Map<string, number[]>> {
  const times = new Map(contestants.map(({ name }) => [name, [] as number[]]));
  for (let round = 0; round < rounds; round++) {
    for (const contestant of contestants) {
      const bench = new Bench({
        time: timeMs,
        iterations,
        warmup: round === 0,
        warmupTime: 0,
        warmupIterations: 1,
        throws: true,
      });
      const { name, run, before, after, async = true } = contestant;
      bench.add(name, run, {
        async,
        ...(before ? { beforeEach: before } : {}),
        ...(after ? { afterEach: after } : {}),
      });
      const [task] = await bench.run();
      if (task === undefined || !('latency' in task.result)) throw new Error(`${name} was not measured`);
      times.get(name)?.push(task.result.latency.p50);
    }
  }
  return times;
}

/** The times of one contestant. */
export function timesOf(times: ReadonlyMap<string, number[]>, name: string): number[] {
  const found = times.get(name);
  if (!found) throw new Error(`there was no contestant ${name}`);
  return found;
}
