import { writeFile } from 'node:fs/promises';
import { findTool } from '#src/cli/demo/tool';
import type { TemporaryDirectory } from '../test/support/directory.js';
import { program } from './effort.js';
import { startServing } from './serving-program.js';

/** A program that serves a disk image over NBD. */
export interface NbdServerProgram {
  name: string;
  /** Serves the image on a Unix socket until it is disposed of. */
  serve(image: string, directory: TemporaryDirectory): Promise<RunningNbdServer>;
}

export interface RunningNbdServer extends AsyncDisposable {
  uri: string;
}

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
  const running = await startServing(command, args, socket);
  return {
    uri: `nbd+unix:///${exportName}?socket=${socket}`,
    [Symbol.asyncDispose]: () => running[Symbol.asyncDispose](),
  };
}
