import type { Clock } from '../../runtime/clock.js';
import { CofferdamError, isCofferdamError, messageOf } from '../../runtime/errors.js';
import { Command } from '../protocol.js';
import { encodeRequest, Exchange, type Answer, type WireRequest } from './exchange.js';
import type { Peer } from './handshake.js';
import { ReplyParser } from './reply-parser.js';

/** Up to this many bytes, requests are put together into one buffer rather than handed over one by one. */
const GATHER_BYTES = 16 * 1024;

/** How long a server that was told that the client goes may take to hang up. */
const FAREWELL_MS = 1000;

/**
 * One connection in its transmission phase, with any number of requests in flight.
 *
 * Invariants:
 * 1. Every request that was sent settles: with its answer, or with an error once the connection is lost.
 * 2. After the loss nothing is written into any caller's buffer.
 */
export class Connection {
  readonly #peer: Peer;
  readonly #onLost: (error: CofferdamError) => void;
  readonly #pending = new Map<number, Exchange>();
  #nextCookie = 1;
  #outgoing: Uint8Array[] = [];
  #isScheduled = false;
  #isLost = false;

  /** @param onLost called once, when the connection can no longer be used; requests in flight have failed by then. */
  constructor(peer: Peer, onLost: (error: CofferdamError) => void) {
    this.#peer = peer;
    this.#onLost = onLost;
    const parser = new ReplyParser(this.#pending, peer);
    const { stream } = peer;
    stream.on('data', (packet: Buffer) => {
      if (this.#isLost) return;
      try {
        parser.push(packet);
      } catch (error) {
        this.destroy(error);
      }
    });
    stream.on('error', (error) => this.destroy(error));
    stream.on('end', () => this.destroy(new Error('the server hung up')));
    stream.on('close', () => this.destroy(new Error('the server hung up')));
    stream.resume();
  }

  /** How many requests wait for their replies. */
  get load(): number {
    return this.#pending.size;
  }

  /**
   * Requests that are sent in the same turn of the event loop leave in one write.
   *
   * @throws CofferdamError CONNECTION_LOST, PROTOCOL_ERROR
   */
  send(request: WireRequest): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const cookie = this.#freeCookie();
      this.#pending.set(cookie, new Exchange(request, { resolve, reject }));
      this.#put(encodeRequest(request, cookie));
      if (request.payload) this.#put(request.payload);
    });
  }

  /** Tells the server that nothing more will come, and hangs up. For a connection without requests in flight. */
  disconnect(clock: Clock): void {
    const { stream } = this.#peer;
    if (this.#isLost || stream.writableEnded) return;
    this.#put(encodeRequest({ command: Command.Disconnect, flags: 0, offsetBytes: 0, lengthBytes: 0 }, 0));
    this.#flush();
    stream.end();
    const deadline = clock.setTimer(FAREWELL_MS, () => stream.destroy());
    stream.once('close', () => deadline[Symbol.dispose]());
  }

  /** Hangs up at once. Requests in flight fail. */
  destroy(cause: unknown): void {
    if (this.#isLost) return;
    this.#isLost = true;
    this.#peer.stream.destroy();
    const error = isCofferdamError(cause)
      ? cause
      : new CofferdamError('CONNECTION_LOST', `the connection was lost: ${messageOf(cause)}`, { cause });
    const abandoned = [...this.#pending.values()];
    this.#pending.clear();
    for (const exchange of abandoned) exchange.abandon(error);
    this.#onLost(error);
  }

  #freeCookie(): number {
    do this.#nextCookie = (this.#nextCookie + 1) % 2 ** 32;
    while (this.#pending.has(this.#nextCookie));
    return this.#nextCookie;
  }

  #put(bytes: Uint8Array): void {
    this.#outgoing.push(bytes);
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    // After all promises that the last packet settled, whose callers often send the next request at once.
    process.nextTick(() => this.#flush());
  }

  #flush(): void {
    const { stream } = this.#peer;
    const parts = gathered(this.#outgoing);
    this.#outgoing = [];
    this.#isScheduled = false;
    if (parts.length === 0 || !stream.writable) return;
    stream.cork();
    for (const part of parts) stream.write(part);
    stream.uncork();
  }
}

function gathered(parts: Uint8Array[]): Uint8Array[] {
  if (parts.length < 2) return parts;
  const totalBytes = parts.reduce((sum, part) => sum + part.length, 0);
  return totalBytes > GATHER_BYTES ? parts : [Buffer.concat(parts, totalBytes)];
}
