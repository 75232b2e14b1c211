import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { program } from './cli.js';
import type { ProcessOptions } from './process.js';

/** A `cofferdam` that serves something, in a process of its own. */
export interface ServedCli extends AsyncDisposable {
  /** The number of its process. */
  readonly pid: number;
  /** What `--json` printed. */
  readonly document: { exports: { name: string; uri: string }[] } & Record<string, unknown>;
  uriOf(exportName: string): string;
  /** Asks it to end and waits until it has. */
  stop(): Promise<{ exitCode: number | null; stderr: string }>;
  /** Ends it at once. */
  kill(): Promise<void>;
}

/** Starts the compiled program and waits until it is ready; rejects with its stderr if it ends before. */
export async function startCli(
  args: readonly string[],
  { cwd, env }: Pick<ProcessOptions, 'cwd' | 'env'> = {},
): Promise<ServedCli> {
  const child = spawn(process.execPath, [program, ...args, '--json', '--ready-fd', '3'], {
    cwd,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
  });
  const exited = once(child, 'exit').then(([code]) => code as number | null);
  let stdout = '';
  child.stdout?.on('data', (data: Buffer) => (stdout += data.toString()));
  const stderr = text(child.stdio[2] as Readable);
  // It ends in any case: a process that exits closes it.
  const ready = await text(child.stdio[3] as Readable);
  if (ready !== 'READY\n') throw new Error(`cofferdam ${args.join(' ')} ended: ${await stderr}`);
  if (child.pid === undefined) throw new Error('a process that is ready has a number');
  const document = JSON.parse(stdout) as ServedCli['document'];
  const end = async (signal: 'SIGTERM' | 'SIGKILL'): Promise<number | null> => {
    child.kill(signal);
    return await exited;
  };
  return {
    pid: child.pid,
    document,
    uriOf: (exportName) => {
      const found = document.exports.find(({ name }) => name === exportName);
      if (!found) throw new Error(`there is no export ${exportName}`);
      return found.uri;
    },
    stop: async () => ({ exitCode: await end('SIGTERM'), stderr: await stderr }),
    kill: async () => void (await end('SIGKILL')),
    [Symbol.asyncDispose]: async () => void (await end('SIGKILL')),
  };
}
