import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { fileURLToPath } from 'node:url';
import { findTool } from '#src/cli/demo/tool';
import type { TemporaryDirectory } from '../test/support/directory.js';

/** A program that serves a disk image over NBD. */
export interface NbdServerProgram {
  name: string;
  /** Serves the image on a Unix socket until it is disposed of. */
  serve(image: string, directory: TemporaryDirectory): Promise<RunningNbdServer>;
}

export interface RunningNbdServer extends AsyncDisposable {
  uri: string;
}

const program = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));

const ours: NbdServerProgram = {
  name: 'cofferdam serve',
  async serve(image, directory) {
    const socket = directory.file('cofferdam.sock');
    const cluster = directory.file('cluster.yaml');
    await writeFile(
      cluster,
      `listen: nbd+unix:///?socket=${socket}\ncontrol: ${directory.file('control.sock')}\n` +
        `servers:\n  - id: disk\n    device: ${image}\n`,
    );
    return start(process.execPath, [program, 'serve', cluster], socket, 'disk');
  },
};

const peers: readonly { name: string; tool: string; args: (image: string, socket: string) => string[] }[] = [
  {
    name: 'qemu-nbd',
    tool: 'qemu-nbd',
    args: (image, socket) => [
      '-f',
      'raw',
      '-t',
      '-e',
      '8',
      '--cache=writeback',
      '--discard=unmap',
      '-k',
      socket,
      image,
    ],
  },
  { name: 'nbdkit file', tool: 'nbdkit', args: (image, socket) => ['-f', '-U', socket, 'file', image] },
];

/** Ours, and the others that this machine has. */
export async function nbdServers(): Promise<NbdServerProgram[]> {
  const found: NbdServerProgram[] = [ours];
  for (const { name, tool, args } of peers) {
    const path = await findTool(tool);
    if (path === undefined) continue;
    found.push({
      name,
      serve: (image, directory) => {
        const socket = directory.file(`${tool}.sock`);
        return start(path, args(image, socket), socket, '');
      },
    });
  }
  return found;
}

async function start(
  command: string,
  args: readonly string[],
  socket: string,
  exportName: string,
): Promise<RunningNbdServer> {
  // Some leave it behind when they end.
  await rm(socket, { force: true });
  const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  const ended = once(child, 'exit');
  await accepts(socket, child);
  return {
    uri: `nbd+unix:///${exportName}?socket=${socket}`,
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
