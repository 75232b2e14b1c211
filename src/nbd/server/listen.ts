import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { link, lstat, rename, rm } from 'node:fs/promises';
import { connect, type ListenOptions, type Server } from 'node:net';
import { dirname, join } from 'node:path';
import { CofferdamError, errnoOf, messageOf } from '../../runtime/errors.js';
import type { NbdAddress } from '../uri.js';

/** What `sockaddr_un` has room for, on Linux and on the others. */
const MAX_SOCKET_PATH_BYTES = process.platform === 'linux' ? 107 : 103;

/**
 * Starts to listen.
 *
 * @returns The address, with the port that was taken where it was 0.
 * @throws CofferdamError DEVICE_BUSY if someone else listens there; BAD_ARGUMENT if nobody can.
 */
export async function listen(server: Server, address: NbdAddress): Promise<NbdAddress> {
  if (address.kind === 'unix') {
    await listenUnix(server, address.path);
    return address;
  }
  const { host, port } = address;
  if (!(await tryListen(server, host === '' ? { port } : { host, port }))) {
    throw new CofferdamError('DEVICE_BUSY', `port ${port} of ${host} is in use; choose another one`);
  }
  const bound = server.address();
  return { kind: 'tcp', host, port: bound !== null && typeof bound === 'object' ? bound.port : port };
}

async function listenUnix(server: Server, path: string): Promise<void> {
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH_BYTES) {
    throw new CofferdamError(
      'BAD_ARGUMENT',
      `${path}: longer than the ${MAX_SOCKET_PATH_BYTES} bytes that the path of a socket may have`,
    );
  }
  if (await tryListen(server, { path })) return;
  await removeDeadSocket(path);
  if (!(await tryListen(server, { path }))) throw busy(path, 'another server listens there');
}

/** Resolves with false if the address is taken. */
async function tryListen(server: Server, options: ListenOptions): Promise<boolean> {
  try {
    server.listen(options);
    await once(server, 'listening');
    return true;
  } catch (error) {
    if (errnoOf(error) === 'EADDRINUSE') return false;
    throw new CofferdamError('BAD_ARGUMENT', `cannot listen: ${messageOf(error)}`, { cause: error });
  }
}

/**
 * Takes away what a server that was killed left behind, and never what one that lives listens on, also if that one
 * begins to at this moment:
 *
 * 1. Look at the socket, and find that nobody answers: this one is dead for good.
 * 2. Move aside what is there now, in one step, so that nobody else can touch it.
 * 3. Remove it if it is the one of step 1; else put it back.
 */
export async function removeDeadSocket(path: string): Promise<void> {
  const seen = await identityOf(path);
  if (seen === undefined) return;
  if (await answers(path)) throw busy(path, 'another server listens there');
  const aside = join(dirname(path), `.${randomUUID()}`);
  try {
    await rename(path, aside);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return;
    throw error;
  }
  const isTheSame = (await identityOf(aside)) === seen;
  // A link, unlike a move, replaces nothing.
  if (!isTheSame) await link(aside, path).catch(() => {});
  await rm(aside);
}

/** Undefined if there is nothing. */
async function identityOf(path: string): Promise<string | undefined> {
  const stats = await lstat(path, { bigint: true }).catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  });
  if (!stats) return undefined;
  if (!stats.isSocket()) throw busy(path, 'there is something else than a socket');
  // Numbers of inodes are used again, but not at the same time.
  return `${stats.dev}:${stats.ino}:${stats.mtimeNs}`;
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
    // Any other failure, such as one of permissions, does not prove that nobody listens.
    socket.on('error', (error) => resolve(errnoOf(error) !== 'ECONNREFUSED'));
  });
}

function busy(path: string, why: string): CofferdamError {
  return new CofferdamError('DEVICE_BUSY', `${path}: ${why}; choose another path, or end it`, {
    device: path,
  });
}
