import { fileURLToPath } from 'node:url';
import { runProcess, type ProcessOptions, type ProcessResult } from './process.js';

/** The compiled program. */
export const program = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

/** Runs the compiled `cofferdam` program as a user would, in a process of its own. */
export function runCli(args: readonly string[], options?: ProcessOptions): Promise<ProcessResult> {
  return runProcess(process.execPath, [program, ...args], options);
}
