import { loadCore } from '../../core/load.js';
import { CofferdamError, isCofferdamError } from '../../runtime/errors.js';
import { freshSeed } from '../../runtime/random.js';
import { runSeeds, type FailedSeed, type SeedTotals } from '../../simulation/seeds.js';
import { shrink } from '../../simulation/shrink.js';
import { simulate, type SimulationResult } from '../../simulation/world/simulation.js';
import { checkSwarmConfig, swarmConfig } from '../../simulation/world/swarm.js';
import type { CommandContext } from '../command.js';
import type { Output } from '../output.js';
import { columns } from '../table.js';
import { count } from '../wording.js';

export interface SeedFlags {
  seed?: number;
  seeds?: number;
  world?: string;
  trace?: boolean;
}

const DEFAULT_SEEDS = 200;

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
  // Whatever happens, the seeds that it happened with are known.
  output.note(seedRange(first, seeds));
  const startedMs = performance.now();
  const elapsedMs = (): number => Math.round(performance.now() - startedMs);
  let soFar: Readonly<SeedTotals> | undefined;
  const onProgress = (totals: Readonly<SeedTotals>): void => {
    soFar = totals;
    if (isTerminal)
      output.stderr.write(`\r${count(totals.seeds, 'seed')}, ${count(totals.generations, 'backup')} `);
  };
  try {
    const { totals, failed } = await runSeeds({ first, count: seeds, signal, onProgress });
    if (isTerminal) output.stderr.write('\n');
    const document = { first, ...totals, failed, elapsedMs: elapsedMs() };
    const [worst] = failed;
    if (worst) await tellFailure(worst, document, output);
    else output.result(document, describeTotals(first, totals, elapsedMs()));
  } catch (error) {
    // Seeds are taken in order, and those that were begun are run to their end.
    if (isCofferdamError(error, 'CANCELLED') && soFar) {
      if (isTerminal) output.stderr.write('\n');
      output.note(describeTotals(first, soFar, elapsedMs()));
    }
    throw error;
  }
}

/** Looks for a simpler world in which a seed fails, and tells what happens there. */
async function tellFailure(failed: FailedSeed, document: object, output: Output): Promise<void> {
  const { seed, violations } = failed;
  const failure = failureOf(failed);
  output.note(`${failure.message}; looking for a simpler world in which it does`);
  const core = await loadCore();
  const simplest = await shrink(seed, swarmConfig(seed), violations[0]?.invariant ?? '', core);
  const result = await simulate(seed, simplest, core);
  const { traceHash, excerpt } = result;
  const text = [
    `Seed ${seed} breaks an invariant:`,
    ...violations.slice(0, 5).map(({ invariant, what }) => `  ${invariant}: ${firstLine(what)}`),
    'See it again, with a trace:',
    `  cofferdam simulate --seed ${seed} --trace`,
    'and in the simplest world found in which it still happens:',
    `  cofferdam simulate --seed ${seed} --trace --world '${JSON.stringify(simplest)}'`,
    'What matters of its trace, times in ms:',
    ...excerpt,
    '',
    describeResult(result),
  ].join('\n');
  output.result({ ...document, simplest, traceHash, trace: excerpt }, text, failure);
}

async function replay(seed: number, flags: SeedFlags, { output }: CommandContext): Promise<void> {
  const config = flags.world === undefined ? swarmConfig(seed) : checkSwarmConfig(flags.world);
  const result = await simulate(seed, config, await loadCore());
  const { trace, excerpt, ...rest } = result;
  const lines = flags.trace === true ? trace : excerpt;
  const failed: FailedSeed = { seed, violations: result.violations };
  const document = { seed, world: config, ...rest, trace: lines };
  const text = [...lines, '', `world ${JSON.stringify(config)}`, describeResult(result)].join('\n');
  output.result(document, text, result.violations.length > 0 ? failureOf(failed) : undefined);
}

function describeTotals(first: number, totals: SeedTotals, elapsedMs: number): string {
  const failures = Object.entries(totals.failures).sort(([, a], [, b]) => b - a);
  return [
    `All invariants held in ${count(totals.seeds, 'world')}, ${seedRange(first, totals.seeds)}: ${Math.round(totals.simulatedMs / 60_000)} simulated minutes ` +
      `in ${(elapsedMs / 1000).toFixed(1)} s, ${count(totals.events, 'event')}, ${count(totals.writes, 'acknowledged write')}.`,
    `${count(totals.generations, 'backup')} committed, each judged and restored; the others failed as they should:`,
    columns(
      ['CODE', '>BACKUPS'],
      failures.map(([code, backups]) => [code, String(backups)]),
    ),
  ].join('\n');
}

function seedRange(first: number, seeds: number): string {
  return `seeds ${first} to ${first + seeds - 1}`;
}

function describeResult(result: SimulationResult): string {
  const { violations, generations, writes, simulatedMs } = result;
  const outcome =
    violations.length === 0
      ? [
          `All invariants held: ${count(generations, 'backup')}, ${count(writes, 'write')}, ${Math.round(simulatedMs)} simulated ms.`,
        ]
      : violations.map(({ invariant, what }) => `BROKEN ${invariant}: ${what}`);
  return [`trace ${result.traceHash}`, ...outcome].join('\n');
}

function failureOf({ seed, violations }: FailedSeed): CofferdamError {
  const [first] = violations;
  return new CofferdamError(
    'SIMULATION_FAILED',
    `seed ${seed}: ${first?.invariant ?? ''}: ${firstLine(first?.what ?? '')}`,
  );
}

function firstLine(text: string): string {
  return text.split('\n')[0] ?? '';
}
