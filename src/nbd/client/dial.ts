import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import type { Clock } from '../../runtime/clock.js';
import { CofferdamError, errnoOf, isCofferdamError, messageOf } from '../../runtime/errors.js';
import { formatNbdUri, type NbdUri } from '../uri.js';
import { shakeHands, type Peer } from './handshake.js';

/** A server that has not finished the handshake by then is given up. */
const HANDSHAKE_MS = 10_000;

/** After this long without a packet the kernel asks whether the other side still exists. */
const KEEP_ALIVE_MS = 30_000;

/**
 * Connects to a server and agrees with it on the export.
 *
 * @param signal ends the attempt with its reason.
 * @param withinMs less time than a handshake may take otherwise, if there is less.
 * @throws CofferdamError CONNECTION_FAILED, UNKNOWN_EXPORT, PROTOCOL_ERROR, DEVICE_UNSUPPORTED
 */
export async function dial(
  uri: NbdUri,
  clock: Clock,
  signal: AbortSignal,
  withinMs = HANDSHAKE_MS,
): Promise<Peer> {
  const deadlineMs = Math.min(withinMs, HANDSHAKE_MS);
  const socket = connectTo(uri);
  // Whoever reads or writes learns of failures by itself; without a listener they would end the process.
  socket.on('error', () => {});
  const abort = (): void => void socket.destroy(signal.reason as Error);
  signal.addEventListener('abort', abort, { once: true });
  using _deadline = clock.setTimer(deadlineMs, () => {
    socket.destroy(
      new CofferdamError(
        'CONNECTION_FAILED',
        `it did not finish the handshake within ${Math.round(deadlineMs)} ms`,
      ),
    );
  });
  try {
    signal.throwIfAborted();
    await once(socket, 'connect');
    return await shakeHands(socket, uri);
  } catch (error) {
    socket.destroy();
    if (signal.aborted) throw signal.reason;
    throw dialError(uri, socket, error);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

function connectTo({ address }: NbdUri): Socket {
  const socket =
    address.kind === 'unix'
      ? connect({ path: address.path })
      : connect({ host: address.host === '' ? 'localhost' : address.host, port: address.port });
  socket.setNoDelay(true);
  socket.setKeepAlive(true, KEEP_ALIVE_MS);
  return socket;
}

function dialError(uri: NbdUri, socket: Socket, error: unknown): CofferdamError {
  const isLoss = isCofferdamError(error, 'CONNECTION_LOST');
  const cause = socket.errored ?? (isLoss ? (error.cause ?? error) : error);
  const isOurs = isCofferdamError(cause) && cause.code !== 'CONNECTION_LOST';
  // Where several addresses were tried in vain, there is no message, but an error number.
  const why = messageOf(cause) || (errnoOf(cause) ?? 'for a reason unknown');
  const device = formatNbdUri(uri);
  return new CofferdamError(
    isOurs ? cause.code : 'CONNECTION_FAILED',
    `${device}: ${isOurs ? '' : 'cannot be reached: '}${why}`,
    { device, cause },
  );
}
