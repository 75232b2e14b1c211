import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runProcess } from '../support/process.js';
import type { Killer } from './mutant.js';
import type { Package } from './workshop.js';

/**
 * How a package fared.
 *
 * - `killed`: something that it did was seen to be wrong.
 * - `broken`: it did nothing that could be judged: it cannot be loaded, or stumbles over itself. That proves nothing.
 */
export type Verdict =
  { kind: 'survived' } | { kind: 'killed'; by: string; why: string } | { kind: 'broken'; why: string };

/** A trial that takes longer has gone wrong. Mutants are chosen so that none of them hangs. */
const TIMEOUT_MS = 300_000;

/** The errors of a program that stumbles over itself. */
const STUMBLING = /\b(TypeError|ReferenceError|SyntaxError|ERR_MODULE_NOT_FOUND)\b/;

/** @param worlds how many worlds the simulator may take to notice. */
export async function tryOut(where: Package, killer: Killer, worlds: number): Promise<Verdict> {
  const verdict =
    killer === 'simulator'
      ? await simulate(where, worlds)
      : await runTests(where, [killer.test], killer.name);
  return verdict.kind === 'killed' && STUMBLING.test(verdict.why)
    ? { kind: 'broken', why: verdict.why }
    : verdict;
}

interface SimulationOutcome {
  worlds: number;
  violation?: { invariant: string; what: string };
}

export async function simulate({ path }: Package, worlds: number): Promise<Verdict> {
  const run = await runProcess(process.execPath, ['simulate.mjs', String(worlds)], {
    cwd: path,
    timeoutMs: TIMEOUT_MS,
  });
  if (run.exitCode !== 0) return { kind: 'broken', why: run.stderr };
  const outcome = JSON.parse(run.stdout) as SimulationOutcome;
  if (!outcome.violation) return { kind: 'survived' };
  const { invariant, what } = outcome.violation;
  return { kind: 'killed', by: `${invariant} (seed ${outcome.worlds})`, why: what };
}

/** Of what vitest reports as JSON. */
interface TestReport {
  testResults: {
    message: string;
    assertionResults: { status: string; fullName: string; failureMessages: string[] }[];
  }[];
}

/** @param name matches the names of the tests to run in these files. */
export async function runTests({ path }: Package, files: string[], name: string): Promise<Verdict> {
  const report = join(path, 'report.json');
  const vitest = ['node_modules/vitest/vitest.mjs', 'run', '--no-cache', '--bail=1', '--testTimeout=20000'];
  const run = await runProcess(
    process.execPath,
    [...vitest, '--maxWorkers=1', '--reporter=json', `--outputFile=${report}`, '-t', name, ...files],
    // A test that draws a seed draws the same one each time.
    { cwd: path, env: { SEED: '1' }, timeoutMs: TIMEOUT_MS },
  );
  const { testResults } = JSON.parse(await readFile(report, 'utf8')) as TestReport;
  const tests = testResults.flatMap(({ assertionResults }) => assertionResults);
  const failed = tests.find(({ status }) => status === 'failed');
  if (failed) return { kind: 'killed', by: failed.fullName, why: failed.failureMessages.join('\n') };
  const hasPassed = tests.some(({ status }) => status === 'passed');
  if (run.exitCode === 0 && hasPassed) return { kind: 'survived' };
  return { kind: 'broken', why: testResults.map(({ message }) => message).join('\n') || run.stderr };
}
