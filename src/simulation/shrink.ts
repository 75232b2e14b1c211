import type { Core } from '../core/core.js';
import { simulate } from './world/simulation.js';
import type { SwarmConfig } from './world/swarm.js';

type Simplification = (config: SwarmConfig) => SwarmConfig;

const network =
  (change: Partial<SwarmConfig['network']>): Simplification =>
  (config) => ({ ...config, network: { ...config.network, ...change } });
const faults =
  (change: Partial<SwarmConfig['faults']>): Simplification =>
  (config) => ({ ...config, faults: { ...config.faults, ...change } });

/** Each makes a world simpler, or leaves it as it is. Those that take most away come first. */
const simplifications: readonly Simplification[] = [
  faults({ partitionMs: 0 }),
  faults({ serverCrashMs: 0 }),
  faults({ coordinatorCrashMs: 0 }),
  faults({ stuckDiskMs: 0 }),
  faults({ freezeMs: 0 }),
  faults({ commitCrashShare: 0 }),
  network({ loss: 0 }),
  network({ duplication: 0 }),
  network({ heldUp: 0 }),
  (config) => ({ ...config, coordinators: 1 }),
  (config) => ({ ...config, cancelShare: 0 }),
  (config) => ({ ...config, drift: 0 }),
  (config) => ({ ...config, limitBytesPerSecond: 0 }),
  (config) => ({ ...config, serverDisk: { ...config.serverDisk, errorShare: 0 } }),
  (config) => ({ ...config, imageDisk: { ...config.imageDisk, errorShare: 0 } }),
  ...(['snapshot', 'hold', 'rolling'] as const).map(
    (strategy): Simplification =>
      (config) =>
        config.strategies.includes(strategy) ? { ...config, strategies: [strategy] } : config,
  ),
  (config) => ({ ...config, durationMs: Math.ceil(config.durationMs / 2) }),
  (config) => ({ ...config, servers: Math.max(1, config.servers - 1) }),
  (config) => ({ ...config, writers: Math.max(1, config.writers - 1) }),
  (config) => ({ ...config, serverDisk: { ...config.serverDisk, latencyMs: 0 } }),
  (config) => ({ ...config, imageDisk: { ...config.imageDisk, latencyMs: 0 } }),
];

/**
 * Looks for a simpler world in which the same seed still breaks the same invariant.
 *
 * @param invariant that the seed breaks in `config`.
 * @returns the simplest found; `config` itself if there is none simpler.
 */
export async function shrink(
  seed: number,
  config: SwarmConfig,
  invariant: string,
  core: Core,
): Promise<SwarmConfig> {
  let simplest = config;
  for (let hasShrunk = true; hasShrunk;) {
    hasShrunk = false;
    for (const simplify of simplifications) {
      const simpler = simplify(simplest);
      if (JSON.stringify(simpler) === JSON.stringify(simplest)) continue;
      const { violations } = await simulate(seed, simpler, core);
      if (!violations.some((violation) => violation.invariant === invariant)) continue;
      simplest = simpler;
      hasShrunk = true;
    }
  }
  return simplest;
}
