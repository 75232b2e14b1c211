import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { rm } from 'node:fs/promises';
import { connect } from 'node:net';

/** Starts a program that listens on a Unix socket, and waits until it does. Disposing of it ends it. */
export async function startServing(
  command: string,
  args: readonly string[],
  socket: string,
): Promise<AsyncDisposable> {
  // Some leave it behind when they end.
  await rm(socket, { force: true });
  const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  const ended = once(child, 'exit');
  await accepts(socket, child);
  return {
    async [Symbol.asyncDispose]() {
      child.kill('SIGTERM');
      await ended;
    },
  };
}

/** Waits until the program accepts connections. */
async function accepts(path: string, child: ChildProcess): Promise<void> {
  for (;;) {
    if (child.exitCode !== null) throw new Error(`${child.spawnfile} ended with ${child.exitCode}`);
    const socket = connect(path);
    const isConnected = await new Promise<boolean>((resolve) => {
      socket.on('connect', () => resolve(true));
      socket.on('error', () => resolve(false));
    });
    socket.destroy();
    if (isConnected) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
