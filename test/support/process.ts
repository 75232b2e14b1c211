import { spawn } from 'node:child_process';
import { text } from 'node:stream/consumers';

export interface ProcessOptions {
  cwd?: string;
  /** Added to the environment of the tests; undefined takes a variable away. */
  env?: Readonly<Record<string, string | undefined>>;
  /** What the process reads on stdin; it is empty by default. */
  input?: string | Uint8Array;
  /** Kills the process and fails after this long. Default 60 s. */
  timeoutMs?: number;
}

export interface ProcessResult {
  /** Undefined if a signal ended the process. */
  exitCode: number | undefined;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end. Rejects only if it cannot be started or takes too long. */
export async function runProcess(
  command: string,
  args: readonly string[],
  { cwd, env, input = '', timeoutMs = 60_000 }: ProcessOptions = {},
): Promise<ProcessResult> {
  const child = spawn(command, args, {
    cwd,
    env: { ...process.env, ...env },
    timeout: timeoutMs,
    killSignal: 'SIGKILL',
  });
  const ended = new Promise<number | undefined>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve(code ?? undefined));
  });
  // A program may end without reading its input.
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  const [exitCode, stdout, stderr] = await Promise.all([ended, text(child.stdout), text(child.stderr)]);
  if (child.killed) {
    throw new Error(`${[command, ...args].join(' ')} took over ${timeoutMs} ms\n${stdout}\n${stderr}`);
  }
  return { exitCode, stdout, stderr };
}
