import { isDeepStrictEqual } from 'node:util';
import type { Clock } from '../../runtime/clock.js';
import type { CofferdamError } from '../../runtime/errors.js';
import { Command, TransmissionFlag } from '../protocol.js';
import { Connection } from './connection.js';
import type { Answer, WireRequest } from './exchange.js';
import { hasFlag, type ExportTerms } from './export-terms.js';
import type { Peer } from './handshake.js';

/** With this many requests in flight on each connection, another one is opened. */
const BUSY = 8;

/** How long requests in flight may take to be answered once a session is to end. */
const DRAIN_MS = 10_000;

export interface SessionOptions {
  clock: Clock;
  /** At most so many, if the server says that what one connection flushes covers the others. */
  connections: number;
  dial: () => Promise<Peer>;
  /** Called once, when nothing can be sent any more; all requests have settled by then. */
  onLost: (session: Session) => void;
}

/**
 * Connections to one export that live and die together.
 *
 * Invariants:
 * 1. Flushes go over the first connection, which is older than every write of the session. So a flush that is answered
 *    was answered by a server that did not go away since the first of those writes.
 * 2. When one connection is lost, all are.
 */
export class Session {
  readonly terms: ExportTerms;
  /** Resolves when nothing can be sent any more. */
  readonly ended: Promise<void>;
  readonly #options: SessionOptions;
  readonly #first: Connection;
  readonly #connections: Connection[] = [];
  #mayGrow: boolean;
  #state: 'open' | 'ending' | 'lost' = 'open';
  #draining: Disposable | undefined;
  #resolveEnded = (): void => {};
  /** How many changes were answered that are not durable by themselves, and how many of these a flush has covered. */
  #answeredChanges = 0;
  #flushedChanges = 0;

  constructor(first: Peer, options: SessionOptions) {
    this.terms = first.terms;
    this.ended = new Promise((resolve) => (this.#resolveEnded = resolve));
    this.#options = options;
    this.#mayGrow = options.connections > 1 && hasFlag(first.terms, TransmissionFlag.CanMultiConn);
    this.#first = this.#add(first);
  }

  get isOpen(): boolean {
    return this.#state === 'open';
  }

  get isLost(): boolean {
    return this.#state === 'lost';
  }

  /** How many changes a flush covers that is sent now. */
  get answeredChanges(): number {
    return this.#answeredChanges;
  }

  get hasUnflushedChanges(): boolean {
    return this.#answeredChanges > this.#flushedChanges;
  }

  changeAnswered(): void {
    this.#answeredChanges++;
  }

  /** @param changes {@link answeredChanges} of when the flush was sent. */
  flushAnswered(changes: number): void {
    this.#flushedChanges = Math.max(this.#flushedChanges, changes);
  }

  /** @throws CofferdamError CONNECTION_LOST, PROTOCOL_ERROR */
  async send(request: WireRequest): Promise<Answer> {
    try {
      return await (request.command === Command.Flush ? this.#first : this.#leastBusy()).send(request);
    } finally {
      if (this.#state === 'ending') this.#hangUpWhenIdle();
    }
  }

  /** Ends in order: what is in flight is answered first, unless that takes too long, and the server is told. */
  end(): Promise<void> {
    if (this.#state === 'open') {
      this.#state = 'ending';
      this.#draining = this.#options.clock.setTimer(DRAIN_MS, () => this.destroy());
      this.#hangUpWhenIdle();
    }
    return this.ended;
  }

  /** Hangs up at once; requests in flight fail. */
  destroy(cause: unknown = new Error('the server left requests unanswered')): void {
    for (const connection of this.#connections) connection.destroy(cause);
  }

  #add({ stream, ...terms }: Peer): Connection {
    const connection = new Connection({ stream, ...terms }, (error) => this.#lose(error));
    this.#connections.push(connection);
    return connection;
  }

  #leastBusy(): Connection {
    let chosen = this.#first;
    for (const connection of this.#connections) if (connection.load < chosen.load) chosen = connection;
    if (this.#mayGrow && chosen.load >= BUSY) void this.#grow();
    return chosen;
  }

  /** A connection more, if the server takes one; if not, those there are must do. */
  async #grow(): Promise<void> {
    this.#mayGrow = false;
    const peer = await this.#options.dial().catch(() => undefined);
    if (!peer) return;
    if (this.#state !== 'open' || !isDeepStrictEqual(peer.terms, this.terms)) {
      peer.stream.destroy();
      return;
    }
    this.#add(peer);
    this.#mayGrow = this.#connections.length < this.#options.connections;
  }

  #hangUpWhenIdle(): void {
    if (this.#connections.some(({ load }) => load > 0)) return;
    for (const connection of this.#connections) connection.disconnect(this.#options.clock);
  }

  #lose(error: CofferdamError): void {
    if (this.#state === 'lost') return;
    this.#state = 'lost';
    this.#draining?.[Symbol.dispose]();
    this.destroy(error);
    this.#options.onLost(this);
    this.#resolveEnded();
  }
}
