import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { CofferdamError } from '../runtime/errors.js';

/**
 * Runs a command as a shell does, with what it prints on stderr: stdout has the result of this program. When the signal
 * aborts, the command and all that it has started are killed.
 *
 * @throws CofferdamError COMMAND_FAILED; the reason of the signal if it aborted.
 */
export async function runShellCommand(command: string, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  // In a process group of its own, which can be killed as a whole.
  const child = spawn('/bin/sh', ['-c', command], { stdio: ['ignore', 2, 2], detached: true });
  const kill = (): void => {
    if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, 'SIGKILL');
  };
  signal.addEventListener('abort', kill);
  try {
    const [code, killedBy] = (await once(child, 'exit')) as [number | null, string | null];
    signal.throwIfAborted();
    if (code === 0) return;
    const how = code === null ? `was ended by ${killedBy}` : `ended with exit code ${code}`;
    throw new CofferdamError('COMMAND_FAILED', `the command ${how}: ${command}`);
  } finally {
    signal.removeEventListener('abort', kill);
  }
}
