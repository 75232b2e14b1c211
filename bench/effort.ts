import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

/** What something took. */
export interface Effort {
  elapsedMs: number;
  /** Of all processors, in the program and in the system on its behalf. */
  processorMs: number;
}

/** The command line program, as it is built. */
export const program = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));

/** The effort of a call in this process, all of whose threads count: nothing else may run in it meanwhile. */
export async function effortOfCall(call: () => Promise<unknown>): Promise<Effort> {
  const used = process.cpuUsage();
  const startMs = performance.now();
  await call();
  const elapsedMs = performance.now() - startMs;
  const { user, system } = process.cpuUsage(used);
  return { elapsedMs, processorMs: (user + system) / 1000 };
}

const execute = promisify(execFile);

/**
 * The effort of a command and of all that it starts, as Bash measures it.
 *
 * @param script of Bash, in which `args` are `$1` and so on.
 */
export async function effortOfCommand(script: string, args: readonly string[] = []): Promise<Effort> {
  const { stderr } = await execute('bash', ['-c', `time { ${script}\n}`, 'bash', ...args], {
    env: { ...process.env, TIMEFORMAT: '%3R %3U %3S', LC_ALL: 'C' },
    maxBuffer: 2 ** 24,
  });
  // Commands may have said something before, not always with a line break at its end.
  const [, ...seconds] = /([\d.]+) ([\d.]+) ([\d.]+)\n$/.exec(stderr) ?? [];
  const [real, user, system] = seconds.map(Number);
  if (real === undefined || user === undefined || system === undefined) throw new Error(stderr);
  // Less than what it resolves is not nothing.
  const milliseconds = (value: number): number => Math.max(value * 1000, 0.5);
  return { elapsedMs: milliseconds(real), processorMs: milliseconds(user + system) };
}
