import { z } from 'zod';
import type { Strategy } from '../../backup/image/record.js';
import { CofferdamError, messageOf } from '../../runtime/errors.js';
import { inWords, issueInWords } from '../../runtime/issue-wording.js';
import { Random } from '../../runtime/random.js';
import { GiB, KiB, MiB, SECTOR_BYTES } from '../../runtime/sizes.js';

const milliseconds = z.number().min(0).max(86_400_000);
const share = z.number().min(0).max(1);

const network = z.strictObject({
  /** Of a message on average. */
  latencyMs: milliseconds,
  /** Shares of messages: lost; carried twice; held up for seconds. */
  loss: share,
  duplication: share,
  heldUp: share,
});
export type NetworkTerms = z.infer<typeof network>;

const disk = z.strictObject({
  /** The most that a request takes before it acts, and again until it is answered. */
  latencyMs: milliseconds,
  /** Of requests that fail. */
  errorShare: share,
});
export type DiskTerms = z.infer<typeof disk>;

/** How often something goes wrong: the time between two such events on average. 0: never. */
const faults = z.strictObject({
  partitionMs: milliseconds,
  serverCrashMs: milliseconds,
  coordinatorCrashMs: milliseconds,
  stuckDiskMs: milliseconds,
  /** A machine stands still for a while, but not its clock. */
  freezeMs: milliseconds,
  /** Of flushes of an image: the coordinator crashes in or right after one. */
  commitCrashShare: share,
});
export type FaultTerms = z.infer<typeof faults>;

const swarm = z.strictObject({
  servers: z.int().min(1).max(26),
  /** `together`: coordinator and servers in one process. `apart`: each on a machine of its own. */
  layout: z.enum(['together', 'apart']),
  /** Coordinators that know nothing of each other, each with an image of its own. */
  coordinators: z.int().min(1).max(9),
  writers: z.int().min(1).max(1000),
  writesPerSecond: z.number().positive(),
  deviceBytes: z.int().min(SECTOR_BYTES).max(GiB).multipleOf(SECTOR_BYTES),
  blockSizeBytes: z.int(),
  strategies: z.array(z.enum(['snapshot', 'hold', 'rolling'])).min(1),
  /** Of `snapshot` and `rolling` while things go wrong. */
  maxStallMs: milliseconds,
  /** How long things go wrong. */
  durationMs: milliseconds,
  /** Time between a coordinator's backups on average. */
  backupEveryMs: milliseconds,
  /** Of backups that are cancelled half-way. */
  cancelShare: share,
  /** How fast a backup may read. 0: as fast as it can, which is a whole device at once. */
  limitBytesPerSecond: z.int().min(0),
  preImageBytes: z.int().min(0),
  imageBytes: z.int().min(0),
  /** How far clocks may be off, as a share of time. */
  drift: z.number().min(0).max(0.9),
  network,
  serverDisk: disk,
  imageDisk: disk,
  faults,
});

/** A simulated world: everything about it that its seed decided. */
export type SwarmConfig = z.infer<typeof swarm>;

/**
 * Reads a world as JSON.
 *
 * @throws CofferdamError BAD_ARGUMENT
 */
export function checkSwarmConfig(json: string): SwarmConfig {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    throw new CofferdamError('BAD_ARGUMENT', `the world is not JSON: ${messageOf(error)}`);
  }
  const parsed = swarm.safeParse(value, { error: inWords });
  if (parsed.success) return parsed.data;
  throw new CofferdamError('BAD_ARGUMENT', `the world: ${parsed.error.issues.map(issueInWords).join('; ')}`);
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
  const strategies = random.pick<Strategy[]>([
    ['snapshot'],
    ['snapshot'],
    ['hold'],
    ['rolling'],
    ['snapshot', 'hold', 'rolling'],
  ]);
  // Only where the barrier outlasts its lease several times are renewals needed; clients do nothing meanwhile.
  const rates = strategies.length === 1 && strategies[0] === 'hold' ? [8 * KiB, MiB] : [256 * KiB, MiB];
  return {
    servers: 1 + random.below(5),
    layout: random.chance(0.35) ? 'together' : 'apart',
    coordinators: isCalm ? 1 : sometimes(0.3, () => 2, 1),
    writers: 1 + random.below(6),
    writesPerSecond: random.pick([20, 100, 400]),
    deviceBytes,
    blockSizeBytes: 4 * KiB * 2 ** random.below(3),
    strategies,
    maxStallMs: isCalm ? 60_000 : random.pick([50, 200, 1000, 5000]),
    durationMs: 500 + random.below(2500),
    backupEveryMs: random.pick([50, 200, 500]),
    cancelShare: trouble(0.2, () => 0.3),
    preImageBytes: isCalm ? MiB : sometimes(0.1, () => 16 * KiB, 4 * MiB),
    imageBytes: isCalm ? 256 * MiB : sometimes(0.15, () => MiB, 256 * MiB),
    drift: trouble(0.5, () => random.pick([0.2, 0.7])),
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
      freezeMs: trouble(0.2, () => random.pick([200, 800])),
      commitCrashShare: trouble(0.15, () => 0.2),
    },
    limitBytesPerSecond: sometimes(0.3, () => random.pick(rates), 0),
  };
}
