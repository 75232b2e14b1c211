import type { Effort } from './effort.js';

/** A whole piece of work to measure beside others. What happens in this process alone is for a contest. */
export interface Racer {
  name: string;
  /** Before each run, not measured. */
  before?: (() => Promise<unknown>) | undefined;
  run: () => Promise<Effort>;
  /** After each run, not measured. */
  after?: (() => Promise<unknown>) | undefined;
}

/** What each racer took in each round, in the order of the racers. */
export type Results = ReadonlyMap<string, readonly Effort[]>;

/** Runs racers one after the other, round by round: A B A B. Before the first round each is run once to warm up. */
export async function race(racers: readonly Racer[], rounds: number): Promise<Results> {
  const results = new Map(racers.map(({ name }) => [name, [] as Effort[]]));
  for (let round = 0; round <= rounds; round++) {
    for (const { name, before, run, after } of racers) {
      await before?.();
      const effort = await run();
      await after?.();
      if (round > 0) results.get(name)?.push(effort);
    }
  }
  return results;
}
