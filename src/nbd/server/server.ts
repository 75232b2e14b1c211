import { createServer, type Server, type Socket } from 'node:net';
import { realClock, type Clock } from '../../runtime/clock.js';
import type { ExportTable } from './exports.js';
import type { HandshakeOptions } from './handshake.js';
import { listen } from './listen.js';
import { Session } from './session.js';
import { loadServerCredentials, type NbdServerTls } from './tls.js';
import { formatNbdUri, type NbdAddress } from '../uri.js';

/** How long requests in flight hold up the closing of a server. */
const DRAIN_MS = 10_000;

const KEEP_ALIVE_MS = 60_000;

export interface NbdServerOptions {
  exports: ExportTable;
  /** Port 0 takes one that is free. The file of a Unix socket must not be there, unless a dead server has left it. */
  listen: NbdAddress;
  /** Default: no TLS. */
  tls?: NbdServerTls | undefined;
  /** Clients that come when there are this many are turned away. Default 256. */
  maxConnections?: number | undefined;
  /** For the limits on a handshake and on closing. Default: the system's. */
  clock?: Clock | undefined;
}

/**
 * Serves block devices to NBD clients, at one address.
 *
 * Invariants:
 * 1. Every connection that was accepted and is not yet closed is in `#sessions`.
 * 2. When closing has begun, no further connection is accepted.
 */
export class NbdServer implements AsyncDisposable {
  /** Where it listens: never port 0. */
  readonly address: NbdAddress;
  readonly #listener: Server;
  readonly #sessions: Set<Session>;
  readonly #clock: Clock;
  readonly #isTlsRequired: boolean;
  #closing: Promise<void> | undefined;

  private constructor(
    listener: Server,
    address: NbdAddress,
    sessions: Set<Session>,
    options: NbdServerOptions,
  ) {
    this.address = address;
    this.#listener = listener;
    this.#sessions = sessions;
    this.#clock = options.clock ?? realClock;
    this.#isTlsRequired = options.tls?.mode === 'required';
  }

  /**
   * @throws CofferdamError DEVICE_BUSY if someone else listens at the address; BAD_ARGUMENT if nobody can, or if the
   * certificates are of no use.
   */
  static async listen(options: NbdServerOptions): Promise<NbdServer> {
    const { exports, tls, maxConnections = 256, clock = realClock } = options;
    const handshake: HandshakeOptions = {
      exports,
      tls: tls && {
        credentials: await loadServerCredentials(tls.certificates),
        isRequired: tls.mode === 'required',
      },
    };
    const sessions = new Set<Session>();
    const listener = createServer({
      // A client that sends no more may still want its replies.
      allowHalfOpen: true,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: KEEP_ALIVE_MS,
    });
    listener.maxConnections = maxConnections;
    listener.on('connection', (socket: Socket) => {
      const session = new Session(socket, handshake);
      sessions.add(session);
      void session.closed.then(() => sessions.delete(session));
      void session.run(clock);
    });
    const address = await listen(listener, options.listen);
    // A client that cannot be accepted, because there are too many files open, is lost; the server is not.
    listener.on('error', () => {});
    return new NbdServer(listener, address, sessions, options);
  }

  /** How many connections are open. */
  get connections(): number {
    return this.#sessions.size;
  }

  /** What to give to a client. One that uses TLS has its certificates elsewhere, so they are not in it. */
  uriOf(exportName: string): string {
    return formatNbdUri({ address: reachable(this.address), exportName, tls: this.#isTlsRequired });
  }

  /** Closes the connections of an export, or all of them, at once: their requests in flight are not answered. */
  disconnect(exportName?: string): void {
    for (const session of this.#sessions) {
      if (exportName === undefined || session.exportName === exportName) session.destroy();
    }
  }

  /**
   * Accepts no further connection, answers the requests in flight and closes all connections. Those that take longer
   * than ten seconds are given up. The devices stay open.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    const sessions = [...this.#sessions];
    const stopped = new Promise<void>((resolve) => this.#listener.close(() => resolve()));
    for (const session of sessions) session.drain();
    using _ = this.#clock.setTimer(DRAIN_MS, () => this.disconnect());
    await Promise.all([stopped, ...sessions.map((session) => session.closed)]);
  }
}

/** Clients cannot connect to every interface, but to this machine. */
function reachable(address: NbdAddress): NbdAddress {
  const isEvery = address.kind === 'tcp' && ['', '0.0.0.0', '::'].includes(address.host);
  return isEvery ? { ...address, host: 'localhost' } : address;
}
