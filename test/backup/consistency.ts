import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openCluster, type ClusterInput } from 'cofferdam';
import { CopyPool } from '#src/backup/pool';
import { loadCore } from '#src/core/load';
import { Random } from '#src/runtime/random';
import { KiB, MiB } from '#src/runtime/sizes';
import { witnessRun, type WitnessRunOptions, type WitnessRunResult } from '#src/witness/run';
import { describeVerdict } from '#src/witness/verdict';
import { temporaryDirectory } from '../support/directory.js';
import { testSeed } from '../support/seed.js';

/** How many backups each strategy is put to; `RUNS=1000` runs more of them. */
const RUNS = Number(process.env['RUNS'] ?? 100);

/** Small blocks and small devices: many blocks are overwritten while others are copied, and a run is short. */
const BLOCK = 4 * KiB;

/**
 * Four servers, so that every way of reading a source is among them, directly and through the device; most pre-images are
 * spilled; and `c` is slow, so that a cut finds writes in flight.
 */
function cluster(directory: string, sizeBytes: number): ClusterInput {
  return {
    servers: [
      {
        id: 'a',
        device: { kind: 'file', path: join(directory, 'a.img'), create: sizeBytes },
        preImages: { memory: 2 * BLOCK, directory },
      },
      { id: 'b', device: { kind: 'file', path: join(directory, 'b.img'), create: sizeBytes - 512 } },
      { id: 'c', device: { kind: 'memory', size: sizeBytes }, faults: true },
      {
        id: 'd',
        device: { kind: 'file', path: join(directory, 'd.img'), create: sizeBytes },
        volatileCache: true,
      },
    ],
  };
}

/** Shared by all runs: starting threads takes longer than a run. */
let pool: CopyPool;

async function run(options: Omit<WitnessRunOptions, 'cluster' | 'to'>): Promise<WitnessRunResult> {
  await using directory = temporaryDirectory({ inMemory: true });
  const random = new Random(options.seed);
  const sizeBytes = (64 + random.below(6) * 64) * KiB;
  await using servers = await openCluster(cluster(directory.path, sizeBytes));
  servers.injectFault('c', { operation: 'write', fault: { delayMs: 1 + random.below(4) } });
  return await witnessRun({
    cluster: servers,
    to: join(directory.path, 'backup.cofferdam'),
    blockSizeBytes: BLOCK,
    hash: random.pick(['xxh64', 'blake3']),
    writers: 8,
    pool,
    beforeMs: 5 + random.below(20),
    afterMs: random.below(10),
    // The machine may be busy with other tests; how long a stall may be is another test's business.
    maxStallMs: 30_000,
    ...options,
  });
}

/** The suite that both cores are put through; the file that calls it chooses the core. */
export function consistencySuite(): void {
  const seeds = new Random(testSeed());
  beforeAll(async () => {
    pool = await CopyPool.start(await loadCore(), 2);
  });
  afterAll(() => pool[Symbol.asyncDispose]());

  describe.each([{ strategy: 'snapshot' }, { strategy: 'hold' }, { strategy: 'rolling' }] as const)(
    '$strategy, 8 writers on 4 servers',
    (options) => {
      test(
        `is crash-consistent in each of ${RUNS} runs`,
        async () => {
          let writes = 0;
          let decided = 0;
          for (let i = 0; i < RUNS; i++) {
            const seed = seeds.uint32();
            const { backup, verdict, workload } = await run({ ...options, seed });
            expect(verdict.group.consistent, `seed ${seed}:\n${describeVerdict(verdict.group)}`).toBe(true);
            expect(backup.consistency).toBe('group');
            expect(workload, `seed ${seed}`).toMatchObject({
              failedWrites: 0,
              failedReads: 0,
              failedFlushes: 0,
              violations: 0,
            });
            writes += workload.writes;
            // A copy with writes on both sides of its cut is one that could have been wrong.
            if (verdict.group.counts.included > 0 && verdict.group.counts.excluded > 0) decided++;
          }
          console.log(
            `${options.strategy}: ${RUNS} runs, ${writes} writes, ${decided} runs with writes on both sides`,
          );
          expect(decided).toBeGreaterThan(RUNS * 0.9);
        },
        RUNS * 10_000,
      );
    },
  );

  test(
    'rolling without its closing cut is found inconsistent in most runs, though each device alone is not',
    async () => {
      const runs = Math.ceil(RUNS / 2);
      let inconsistent = 0;
      for (let i = 0; i < runs; i++) {
        const seed = seeds.uint32();
        const { backup, verdict } = await run({
          strategy: 'rolling',
          closingCut: false,
          seed,
          // Small devices are copied in a moment; at this rate it takes as long as with larger ones.
          limitBytesPerSecond: 16 * MiB,
        });
        expect(backup).toMatchObject({ consistency: 'device', cut: { group: { overlapMs: null } } });
        for (const alone of verdict.devices.values()) {
          expect(alone.consistent, `seed ${seed}:\n${describeVerdict(alone)}`).toBe(true);
        }
        if (verdict.group.consistent) continue;
        inconsistent++;
        expect(verdict.group.witness.included?.invoke).toBeGreaterThan(
          verdict.group.witness.excluded?.ack ?? Infinity,
        );
      }
      console.log(`rolling without closing cut: ${inconsistent} of ${runs} runs inconsistent`);
      expect(inconsistent).toBeGreaterThan(runs / 2);
    },
    RUNS * 10_000,
  );
}
