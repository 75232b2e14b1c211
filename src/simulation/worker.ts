import { loadCore } from '../core/load.js';
import { simulate, type SimulationResult } from './world/simulation.js';
import { swarmConfig } from './world/swarm.js';

/** Seeds [first, first + count). */
export interface SeedRange {
  first: number;
  count: number;
}

export type SeedResult = Omit<SimulationResult, 'trace' | 'excerpt'> & { seed: number };

/** What runs on the threads of {@link runSeeds}. */
export default async function runRange({ first, count }: SeedRange): Promise<SeedResult[]> {
  const core = await loadCore();
  const results: SeedResult[] = [];
  for (let seed = first; seed < first + count; seed++) {
    const { trace: _trace, excerpt: _excerpt, ...result } = await simulate(seed, swarmConfig(seed), core);
    results.push({ seed, ...result });
  }
  return results;
}
