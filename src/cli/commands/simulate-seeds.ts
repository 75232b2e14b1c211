import { loadCore } from '../../core/load.js';
import { CofferdamError } from '../../runtime/errors.js';
import { freshSeed } from '../../runtime/random.js';
import { runSeeds, type FailedSeed, type SeedTotals } from '../../simulation/seeds.js';
import { shrink } from '../../simulation/shrink.js';
import { simulate, type SimulationResult } from '../../simulation/world/simulation.js';
import { checkSwarmConfig, swarmConfig, type SwarmConfig } from '../../simulation/world/swarm.js';
import type { CommandContext } from '../command.js';
import { columns } from '../table.js';
import { count } from '../wording.js';

export interface SeedFlags {
  seed?: number;
  seeds?: number;
  world?: string;
  trace?: boolean;
}

const DEFAULT_SEEDS = 200;

/** How many lines of a trace are printed unless all are asked for. */
const TRACE_LINES = 60;

/** Runs the worlds of seeds: one that is told in detail, or many. */
export async function simulateSeeds(flags: SeedFlags, context: CommandContext): Promise<void> {
  if (flags.seed !== undefined && flags.seeds === undefined) return await replay(flags.seed, flags, context);
  if (flags.world !== undefined || flags.trace === true) {
    throw new CofferdamError('BAD_ARGUMENT', '--world and --trace are about one seed; give it with --seed');
  }
  await runMany(flags.seed ?? freshSeed(), flags.seeds ?? DEFAULT_SEEDS, context);
}

async function runMany(first: number, seeds: number, { output, signal }: CommandContext): Promise<void> {
  const isTerminal = output.stderr.isTTY;
  const which = `seeds ${first} to ${first + seeds - 1}`;
  // Whatever happens, the seeds that it happened with are known.
  output.note(which);
  const startedMs = performance.now();
  const { totals, failed } = await runSeeds({
    first,
    count: seeds,
    signal,
    onProgress: (so) => {
      if (isTerminal)
        output.stderr.write(`\r${count(so.seeds, 'seed')}, ${count(so.generations, 'backup')} `);
    },
  });
  if (isTerminal) output.stderr.write('\n');
  const elapsedMs = Math.round(performance.now() - startedMs);
  const document = { first, ...totals, failed, elapsedMs };
  const [worst] = failed;
  if (!worst) return output.result(document, describeTotals(which, totals, elapsedMs));
  const simplest = await shrinkFailure(worst);
  output.result({ ...document, simplest }, describeFailure(worst, simplest), failureOf(worst));
}

async function replay(seed: number, flags: SeedFlags, { output }: CommandContext): Promise<void> {
  const config = flags.world === undefined ? swarmConfig(seed) : checkSwarmConfig(flags.world);
  const result = await simulate(seed, config, await loadCore());
  const { trace, ...rest } = result;
  const lines = flags.trace === true ? trace : trace.slice(-TRACE_LINES);
  const text = [
    ...lines,
    '',
    describeWorld(config),
    `trace ${result.traceHash}`,
    describeResult(result),
  ].join('\n');
  const failed: FailedSeed = { seed, violations: result.violations };
  const document = { seed, world: config, ...rest, trace: lines };
  output.result(document, text, result.violations.length > 0 ? failureOf(failed) : undefined);
}

async function shrinkFailure({ seed, violations }: FailedSeed): Promise<SwarmConfig> {
  return shrink(seed, swarmConfig(seed), violations[0]?.invariant ?? '', await loadCore());
}

function describeTotals(which: string, totals: SeedTotals, elapsedMs: number): string {
  const failures = Object.entries(totals.failures).sort(([, a], [, b]) => b - a);
  return [
    `All invariants held in ${count(totals.seeds, 'world')}, ${which}: ${Math.round(totals.simulatedMs / 60_000)} simulated minutes ` +
      `in ${(elapsedMs / 1000).toFixed(1)} s, ${count(totals.events, 'event')}, ${count(totals.writes, 'acknowledged write')}.`,
    `${count(totals.generations, 'backup')} committed, each judged and restored; the others failed as they should:`,
    columns(
      ['CODE', '>BACKUPS'],
      failures.map(([code, backups]) => [code, String(backups)]),
    ),
  ].join('\n');
}

function describeFailure({ seed, violations }: FailedSeed, simplest: SwarmConfig): string {
  return [
    `Seed ${seed} breaks an invariant:`,
    ...violations.slice(0, 5).map(({ invariant, what }) => `  ${invariant}: ${what}`),
    'See it again, with a trace:',
    `  cofferdam simulate --seed ${seed} --trace`,
    'and in the simplest world found in which it still happens:',
    `  cofferdam simulate --seed ${seed} --trace --world '${JSON.stringify(simplest)}'`,
  ].join('\n');
}

function describeWorld(config: SwarmConfig): string {
  return `world ${JSON.stringify(config)}`;
}

function describeResult({ violations, generations, writes, simulatedMs }: SimulationResult): string {
  if (violations.length === 0) {
    return `All invariants held: ${count(generations, 'backup')}, ${count(writes, 'write')}, ${Math.round(simulatedMs)} simulated ms.`;
  }
  return violations.map(({ invariant, what }) => `BROKEN ${invariant}: ${what}`).join('\n');
}

function failureOf({ seed, violations }: FailedSeed): CofferdamError {
  const [first] = violations;
  return new CofferdamError(
    'SIMULATION_FAILED',
    `seed ${seed}: ${first?.invariant ?? ''}: ${first?.what.split('\n')[0] ?? ''}`,
  );
}
