import type { Strategy } from '../backup/image/record.js';
import { Random } from '../runtime/random.js';
import { KiB, MiB } from '../runtime/sizes.js';

export interface NetworkTerms {
  /** Of a message on average, in ms. */
  latencyMs: number;
  /** Shares of messages from 0 to 1: lost; carried twice; held up for seconds. */
  loss: number;
  duplication: number;
  heldUp: number;
}

export interface DiskTerms {
  /** The most that a request takes before it acts, and again until it is answered, in ms. */
  latencyMs: number;
  /** Share of requests that fail, from 0 to 1. */
  errorShare: number;
}

/** How often something goes wrong: the time between two such events on average, in ms. 0: never. */
export interface FaultTerms {
  partitionMs: number;
  serverCrashMs: number;
  coordinatorCrashMs: number;
  stuckDiskMs: number;
}

/** A simulated world: everything about it that its seed decided. */
export interface SwarmConfig {
  servers: number;
  /** `together`: coordinator and servers in one process. `apart`: each on a machine of its own. */
  layout: 'together' | 'apart';
  /** Coordinators that know nothing of each other, each with an image of its own. */
  coordinators: number;
  writers: number;
  writesPerSecond: number;
  deviceBytes: number;
  blockSizeBytes: number;
  strategies: Strategy[];
  maxStallMs: number;
  /** How long things go wrong, in ms. */
  durationMs: number;
  /** Time between a coordinator's backups on average, in ms. */
  backupEveryMs: number;
  /** Share of backups that are cancelled half-way. */
  cancelShare: number;
  preImageBytes: number;
  imageBytes: number;
  /** How far clocks may be off, as a share of time. */
  drift: number;
  network: NetworkTerms;
  serverDisk: DiskTerms;
  imageDisk: DiskTerms;
  faults: FaultTerms;
}

/**
 * The world of a seed. Each world has only some of the troubles, so that every trouble also appears without the others
 * that would hide what it does (swarm testing: Groce et al., ISSTA 2012).
 */
export function swarmConfig(seed: number): SwarmConfig {
  const random = new Random(seed);
  const sometimes = <T>(probability: number, value: () => T, otherwise: T): T =>
    random.chance(probability) ? value() : otherwise;
  const isCalm = random.chance(0.15);
  const trouble = (probability: number, value: () => number): number =>
    isCalm ? 0 : sometimes(probability, value, 0);
  const deviceBytes = 32 * KiB * (1 + random.below(4));
  return {
    servers: 1 + random.below(5),
    layout: random.chance(0.35) ? 'together' : 'apart',
    coordinators: isCalm ? 1 : sometimes(0.3, () => 2, 1),
    writers: 1 + random.below(6),
    writesPerSecond: random.pick([20, 100, 400]),
    deviceBytes,
    blockSizeBytes: 4 * KiB * 2 ** random.below(3),
    strategies: random.pick<Strategy[]>([
      ['snapshot'],
      ['snapshot'],
      ['hold'],
      ['rolling'],
      ['snapshot', 'hold', 'rolling'],
    ]),
    maxStallMs: isCalm ? 60_000 : random.pick([50, 200, 1000, 5000]),
    durationMs: 500 + random.below(2500),
    backupEveryMs: random.pick([50, 200, 500]),
    cancelShare: trouble(0.2, () => 0.3),
    preImageBytes: isCalm ? MiB : sometimes(0.1, () => 16 * KiB, 4 * MiB),
    imageBytes: isCalm ? 256 * MiB : sometimes(0.15, () => MiB, 256 * MiB),
    drift: trouble(0.5, () => 0.2),
    network: {
      latencyMs: random.pick([0.1, 1, 10]),
      loss: trouble(0.3, () => random.pick([0.002, 0.02])),
      duplication: trouble(0.3, () => random.pick([0.02, 0.3])),
      heldUp: trouble(0.3, () => random.pick([0.005, 0.05])),
    },
    serverDisk: {
      latencyMs: random.pick([0, 0.5, 5]),
      errorShare: trouble(0.15, () => 0.002),
    },
    imageDisk: {
      latencyMs: random.pick([0, 0.5, 5]),
      errorShare: trouble(0.15, () => 0.002),
    },
    faults: {
      partitionMs: trouble(0.25, () => 800),
      serverCrashMs: trouble(0.3, () => random.pick([300, 1500])),
      coordinatorCrashMs: trouble(0.3, () => random.pick([200, 1000])),
      stuckDiskMs: trouble(0.2, () => 800),
    },
  };
}
