import { copyFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { temporaryDirectory } from '../support/directory.js';
import { runProcess, type ProcessResult } from '../support/process.js';

const MODEL = fileURLToPath(new URL('../../proof/cut-and-hold.pml', import.meta.url));

/** What to check: `safety` is the assertions, `liveness` the LTL formula, under weak fairness. */
export interface SpinRun {
  of: 'safety' | 'liveness';
  /** `NAME` or `NAME=value`. */
  defines: readonly string[];
}

export interface SpinResult {
  /** What was found wrong, in the words of the checker; undefined if every state was visited and none was wrong. */
  violation: string | undefined;
  /** What led there, as the model tells it; empty without a violation. */
  story: string[];
  states: number;
  /** Statements of the model that no run reaches. */
  unreached: string[];
}

/**
 * Checks the model of `proof/` with spin, every state of it.
 *
 * @throws Error if the search was cut short, for whatever reason but a violation.
 */
export async function spin({ of, defines }: SpinRun): Promise<SpinResult> {
  await using directory = temporaryDirectory();
  const run = async (command: string, ...args: string[]): Promise<ProcessResult> => {
    const result = await runProcess(command, args, { cwd: directory.path, timeoutMs: 300_000 });
    if (result.exitCode !== 0) throw new Error(`${command} failed: ${result.stdout}${result.stderr}`);
    return result;
  };
  const flags = defines.map((define) => `-D${define}`);
  if (of === 'liveness') flags.push('-DLIVENESS');
  await copyFile(MODEL, directory.file('model.pml'));
  await run('spin', ...flags, '-a', 'model.pml');
  // Without partial order reduction, which does not go with `provided`; within 2 GiB.
  const mode = of === 'safety' ? ['-DSAFETY'] : ['-DNFAIR=4'];
  await run('gcc', '-w', '-O2', '-DNOREDUCE', '-DMEMLIM=2048', ...mode, '-o', 'pan', 'pan.c');
  // -b: a search that would have to go deeper fails. -E: nothing has to go on, a step that never comes is a crash.
  const search = of === 'safety' ? ['-E'] : ['-a', '-f'];
  const { stdout } = await run(directory.file('pan'), '-b', '-m1000000', ...search);
  const violation = /^pan:\d+: (.*) \(at depth \d+\)$/m.exec(stdout)?.[1];
  assertComplete(stdout, violation);
  return {
    violation,
    story: violation === undefined ? [] : await replay(directory.path, flags),
    states: Number(/^ *(\d+) states, stored/m.exec(stdout)?.[1]),
    unreached: [...stdout.matchAll(/^\s*model\.pml:(\d+), state \d+, "(.*)"$/gm)]
      .filter(([, , statement]) => statement !== '-end-')
      .map(([, line, statement]) => `${line}: ${statement}`),
  };
}

/** A search that was cut short proves nothing; one that found a violation says that it was, and rightly so. */
function assertComplete(output: string, violation: string | undefined): void {
  const errors = /, errors: (\d+)$/m.exec(output)?.[1];
  const isCutShort =
    /not completed|max search depth|reached -DMEMLIM|out of memory|Bit statespace|hash-compact/i;
  const isWrong =
    violation === undefined
      ? errors !== '0' || isCutShort.test(output)
      : errors !== '1' || /max search depth|reached -DMEMLIM|out of memory/i.test(output);
  if (isWrong || !output.includes('Full statespace search')) throw new Error(`not a full search:\n${output}`);
}

async function replay(cwd: string, flags: readonly string[]): Promise<string[]> {
  const { stdout } = await runProcess('spin', [...flags, '-t', 'model.pml'], { cwd });
  const lines = stdout.split('\n').map((line) => line.trim());
  return lines.filter((line) => /^(server|write|coordinator) \d+: /.test(line));
}
