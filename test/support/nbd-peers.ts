import { spawn, type ChildProcess } from 'node:child_process';
import { createServer, connect } from 'node:net';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { formatNbdUri, type NbdAddress } from '#src/nbd/uri';
import { temporaryDirectory, type TemporaryDirectory } from './directory.js';

/** An NBD server of somebody else, in a process of its own, with a directory for its files. */
export interface NbdPeer extends AsyncDisposable {
  readonly uri: string;
  readonly directory: TemporaryDirectory;
  /** Ends the process at once, as a power cut would. */
  kill(): Promise<void>;
  /** Starts it again at the same place after {@link NbdPeer.kill}, with what its files hold. */
  restart(): Promise<void>;
}

/** How to start a server that listens at an address. */
export interface PeerCommand {
  readonly address: NbdAddress;
  readonly exportName?: string | undefined;
  readonly command: string;
  readonly args: readonly string[];
  /** Where the server writes the number of its process, if it runs in the background, as the leader of a group. */
  readonly pidFile?: string | undefined;
}

/**
 * Starts a server and waits until it accepts connections.
 *
 * @param plan is given the directory, which exists, and a path for a socket in it.
 */
export async function startPeer(
  plan: (directory: TemporaryDirectory, socketPath: string) => Promise<PeerCommand> | PeerCommand,
): Promise<NbdPeer> {
  const directory = temporaryDirectory();
  const {
    address,
    exportName = '',
    command,
    args,
    pidFile,
  } = await plan(directory, directory.file('nbd.sock'));
  let child: ChildProcess;
  let output = '';
  const start = async (): Promise<void> => {
    child = spawn(command, args, { cwd: directory.path, stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (data: Buffer) => (output += data.toString()));
    }
    await once(child, 'spawn');
    while (!(await accepts(address))) {
      const hasFailed = pidFile === undefined ? child.exitCode !== null : (child.exitCode ?? 0) !== 0;
      if (hasFailed) throw new Error(`${command} ${args.join(' ')} ended:\n${output}`);
      await delay(10);
    }
  };
  const kill = async (): Promise<void> => {
    if (pidFile !== undefined) {
      await killGroup(pidFile);
      while (await accepts(address)) await delay(10);
      return;
    }
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  };
  await start();
  return {
    uri: formatNbdUri({ address, exportName, tls: false }),
    directory,
    kill,
    restart: start,
    [Symbol.asyncDispose]: async () => {
      await kill();
      await directory[Symbol.asyncDispose]();
    },
  };
}

/** Kills a server in the background, with a process per client. */
async function killGroup(pidFile: string): Promise<void> {
  const group = Number(await readFile(pidFile, 'utf8').catch(() => '0'));
  if (group <= 1) return;
  await rm(pidFile);
  process.kill(-group, 'SIGKILL');
}

/** Connects and hangs up again; the servers take that for a client that changed its mind. */
async function accepts(address: NbdAddress): Promise<boolean> {
  const socket = address.kind === 'unix' ? connect({ path: address.path }) : connect(address);
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

/** A TCP port of this machine that nobody listens on. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('a TCP server has a port');
  return address.port;
}

/** A file of zeros in a peer's directory. */
export async function imageIn(directory: TemporaryDirectory, sizeBytes: number): Promise<string> {
  const path = directory.file('disk.img');
  await writeFile(path, new Uint8Array(sizeBytes));
  return path;
}

/** qemu-nbd serving a raw file. */
export function startQemuNbd(sizeBytes: number, ...args: string[]): Promise<NbdPeer> {
  return startPeer(async (directory, path) => ({
    address: { kind: 'unix', path },
    command: 'qemu-nbd',
    args: [
      ...['--format=raw', '--persistent', '--shared=8', '--discard=unmap', `--socket=${path}`],
      ...args,
      await imageIn(directory, sizeBytes),
    ],
  }));
}

/** nbdkit with a plugin and its parameters; filters may stand before it. */
export function startNbdkit(...args: string[]): Promise<NbdPeer> {
  return startPeer((_directory, path) => ({
    address: { kind: 'unix', path },
    command: 'nbdkit',
    args: ['--foreground', '--exit-with-parent', '--unix', path, ...args],
  }));
}

/** nbdkit serving a file. */
export function startNbdkitFile(sizeBytes: number, ...args: string[]): Promise<NbdPeer> {
  return startPeer(async (directory, path) => ({
    address: { kind: 'unix', path },
    command: 'nbdkit',
    args: [
      ...['--foreground', '--exit-with-parent', '--unix', path],
      ...args,
      'file',
      await imageIn(directory, sizeBytes),
    ],
  }));
}

/** nbd-server serving a file over TCP, under the name `disk`. */
export function startNbdServer(sizeBytes: number, ...settings: string[]): Promise<NbdPeer> {
  return startPeer(async (directory) => {
    const port = await freePort();
    const lines = [
      ...['[generic]', 'listenaddr = 127.0.0.1', `port = ${port}`],
      ...['[disk]', `exportname = ${await imageIn(directory, sizeBytes)}`, ...settings],
    ];
    await writeFile(directory.file('config'), `${lines.join('\n')}\n`);
    return {
      address: { kind: 'tcp', host: '127.0.0.1', port },
      exportName: 'disk',
      command: 'nbd-server',
      args: ['-C', directory.file('config'), '-p', directory.file('pid')],
      pidFile: directory.file('pid'),
    };
  });
}
