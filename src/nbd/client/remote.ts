import { isDeepStrictEqual } from 'node:util';
import { sleep, type Clock } from '../../runtime/clock.js';
import { CofferdamError, isCofferdamError, messageOf, type ErrorCode } from '../../runtime/errors.js';
import type { StatusExtent } from '../server/exports.js';
import { Command, CommandFlag, Errno, TransmissionFlag } from '../protocol.js';
import { formatNbdUri, type NbdUri } from '../uri.js';
import { dial } from './dial.js';
import type { Answer, WireRequest } from './exchange.js';
import { hasFlag, type ExportTerms } from './export-terms.js';
import type { Peer } from './handshake.js';
import { Session } from './session.js';

const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 1000;

export interface RemoteOptions {
  clock: Clock;
  connections: number;
  reconnectMs: number;
}

/**
 * An export, through as many sessions as it takes. The docstring of NbdDevice tells the policy.
 *
 * Invariants:
 * 1. There is at most one session at a time, and none is begun while one before it has requests in flight.
 * 2. A change that may have been sent is never sent again, unless the server said that it refused it.
 * 3. `#doubts` grows whenever a session ends with changes that were answered but not flushed. A flush is answered only
 *    if every doubt there was when it was sent had been reported by another one.
 */
export class Remote {
  readonly name: string;
  readonly terms: ExportTerms;
  readonly #uri: NbdUri;
  readonly #options: RemoteOptions;
  readonly #closing = new AbortController();
  #session: Session;
  #reopening: Promise<Session> | undefined;
  /** Set for good once the export is known to be another one than it was. */
  #broken: CofferdamError | undefined;
  /** Requests under way, sent or waiting for a session. */
  #requests = 0;
  /** When requests began to wait with none answered since; undefined where none wait. */
  #troubleSinceMs: number | undefined;
  #attempts = 0;
  #losses = 0;
  #doubts = 0;
  #reportedDoubts = 0;

  private constructor(uri: NbdUri, peer: Peer, options: RemoteOptions) {
    this.name = formatNbdUri(uri);
    this.terms = peer.terms;
    this.#uri = uri;
    this.#options = options;
    this.#session = this.#sessionWith(peer);
  }

  /** @throws CofferdamError CONNECTION_FAILED, UNKNOWN_EXPORT, PROTOCOL_ERROR, DEVICE_UNSUPPORTED */
  static async open(uri: NbdUri, options: RemoteOptions): Promise<Remote> {
    return new Remote(uri, await dial(uri, options.clock, new AbortController().signal), options);
  }

  can(flag: number): boolean {
    return hasFlag(this.terms, flag);
  }

  /** Sends a request that changes nothing. */
  async ask(request: WireRequest): Promise<readonly StatusExtent[]> {
    const { answer } = await this.#exchange(request);
    return answer.extents;
  }

  /** Sends a request that changes bytes. */
  async change(request: WireRequest): Promise<void> {
    const { session } = await this.#exchange(request);
    // What is durable cannot be lost, and nobody relies on what was trimmed.
    if ((request.flags & CommandFlag.Fua) !== 0 || request.command === Command.Trim) return;
    session.changeAnswered();
    // The session may have ended between the answer and now, when it did not know of this change yet.
    if (session.isLost) this.#doubts++;
  }

  /** @throws CofferdamError CONNECTION_LOST too if changes that were answered before may be gone. */
  async flush(): Promise<void> {
    // Of several flushes at the same time each must tell: nobody hears what another one was told.
    const reported = this.#reportedDoubts;
    const doubts = await this.#flush();
    if (doubts === reported) return;
    this.#reportedDoubts = Math.max(this.#reportedDoubts, doubts);
    throw new CofferdamError(
      'CONNECTION_LOST',
      `${this.name}: the connection was lost after writes were answered and before they were flushed; they may be gone: ` +
        'write them again',
      { device: this.name },
    );
  }

  /**
   * Makes changes durable, for a server that has no FUA.
   *
   * @throws CofferdamError what `changes` throws, or CONNECTION_LOST if it is not certain that they are durable.
   */
  async durably(changes: () => Promise<void>): Promise<void> {
    const losses = this.#losses;
    await changes();
    await this.#flush();
    if (this.#losses === losses) return;
    throw new CofferdamError(
      'CONNECTION_LOST',
      `${this.name}: the connection was lost between a write and its flush; whether it is durable is unknown: write it again`,
      { device: this.name },
    );
  }

  /** From now on nothing waits for the server to come back. */
  stopWaiting(): void {
    this.#closing.abort(
      new CofferdamError('DEVICE_CLOSED', `${this.name}: closed while the server was away`, {
        device: this.name,
      }),
    );
  }

  /** Hangs up at once; requests in flight fail. */
  destroy(): void {
    this.#session.destroy();
  }

  /** Hangs up in order. */
  end(): Promise<void> {
    return this.#session.end();
  }

  /** @returns the doubts there were when the flush that was answered was sent. */
  async #flush(): Promise<number> {
    if (!this.can(TransmissionFlag.SendFlush)) {
      // What such a server answers is as durable as it will ever be.
      this.#session.flushAnswered(this.#session.answeredChanges);
      return this.#doubts;
    }
    let changes = 0;
    let doubts = 0;
    const request = { command: Command.Flush, flags: 0, offsetBytes: 0, lengthBytes: 0 };
    const { session } = await this.#exchange(request, (current) => {
      changes = current.answeredChanges;
      doubts = this.#doubts;
    });
    session.flushAnswered(changes);
    return doubts;
  }

  /**
   * Sends until there is an answer, as far as the request may be sent again.
   *
   * @param beforeSending called in the same turn in which the request is sent.
   */
  async #exchange(
    request: WireRequest,
    beforeSending: (session: Session) => void = () => {},
  ): Promise<{ session: Session; answer: Answer }> {
    this.#requests++;
    try {
      for (;;) {
        const session = this.#session.isOpen ? this.#session : await this.#reopened();
        if (!session.isOpen) continue;
        beforeSending(session);
        const answer = await this.#attempt(request, session);
        if (!answer) continue;
        if (answer.errno !== Errno.Ok) throw failure(this.name, request, answer);
        return { session, answer };
      }
    } finally {
      this.#requests--;
      if (this.#requests === 0) this.#troubleSinceMs = undefined;
    }
  }

  /** @returns undefined if the request is to be sent again. */
  async #attempt(request: WireRequest, session: Session): Promise<Answer | undefined> {
    try {
      const answer = await session.send(request);
      if (answer.errno === Errno.ESHUTDOWN) {
        // The server did not do it, and wants its clients to go.
        void session.end();
        return undefined;
      }
      this.#troubleSinceMs = undefined;
      this.#attempts = 0;
      return answer;
    } catch (error) {
      if (isCofferdamError(error, 'CONNECTION_LOST') && isRepeatable(request)) return undefined;
      throw lost(this.name, request, error);
    }
  }

  #reopened(): Promise<Session> {
    this.#reopening ??= this.#reopen().finally(() => (this.#reopening = undefined));
    return this.#reopening;
  }

  /** A new session; as often as it takes and as long as it may. */
  async #reopen(): Promise<Session> {
    const { clock, reconnectMs } = this.#options;
    await this.#session.ended;
    if (this.#broken) throw this.#broken;
    this.#troubleSinceMs ??= clock.nowMs();
    const endMs = this.#troubleSinceMs + reconnectMs;
    let reason: unknown = new Error('the connection is lost again and again');
    try {
      for (;;) {
        await this.#pause(endMs);
        const leftMs = endMs - clock.nowMs();
        if (leftMs <= 0) throw this.#away(reason);
        try {
          return this.#resume(await dial(this.#uri, clock, this.#closing.signal, leftMs));
        } catch (error) {
          if (!isCofferdamError(error, 'CONNECTION_FAILED')) throw error;
          reason = error;
        }
      }
    } catch (error) {
      // Whoever asks next has all of the time again.
      this.#troubleSinceMs = undefined;
      this.#attempts = 0;
      throw error;
    }
  }

  /** Longer from attempt to attempt, while nothing is answered; not at all before the first one. */
  async #pause(endMs: number): Promise<void> {
    const { clock } = this.#options;
    const pauseMs = Math.min(FIRST_PAUSE_MS * 2 ** (this.#attempts - 1), LONGEST_PAUSE_MS);
    if (this.#attempts > 0) {
      await sleep(clock, Math.max(0, Math.min(pauseMs, endMs - clock.nowMs())), this.#closing.signal);
    }
    this.#attempts++;
  }

  #resume(peer: Peer): Session {
    if (!isDeepStrictEqual(peer.terms, this.terms)) {
      peer.stream.destroy();
      this.#broken = new CofferdamError(
        'PROTOCOL_ERROR',
        `${this.name}: the server came back with another export under this name: ${differences(this.terms, peer.terms)}; ` +
          'open it again',
        { device: this.name },
      );
      throw this.#broken;
    }
    this.#session = this.#sessionWith(peer);
    return this.#session;
  }

  #sessionWith(peer: Peer): Session {
    const { clock, connections } = this.#options;
    return new Session(peer, {
      clock,
      connections,
      dial: () => dial(this.#uri, clock, this.#closing.signal),
      onLost: (session) => {
        this.#losses++;
        if (session.hasUnflushedChanges) this.#doubts++;
      },
    });
  }

  #away(reason: unknown): CofferdamError {
    return new CofferdamError(
      'CONNECTION_FAILED',
      `${this.name}: the server did not come back within ${this.#options.reconnectMs} ms: ${messageOf(reason)}`,
      { device: this.name, cause: reason },
    );
  }
}

/** Whether doing it twice is the same as doing it once, even much later. */
function isRepeatable({ command }: WireRequest): boolean {
  return command === Command.Read || command === Command.BlockStatus || command === Command.Flush;
}

const words: Readonly<Record<number, string>> = {
  [Command.Read]: 'read',
  [Command.Write]: 'write',
  [Command.Trim]: 'trim',
  [Command.WriteZeroes]: 'write zeroes',
  [Command.BlockStatus]: 'allocation',
};

const codes: Readonly<Record<number, ErrorCode>> = {
  [Errno.EPERM]: 'READ_ONLY',
  [Errno.ENOSPC]: 'DEVICE_FULL',
  [Errno.ENOTSUP]: 'DEVICE_UNSUPPORTED',
};

function describe({ command, offsetBytes, lengthBytes }: WireRequest): string {
  return command === Command.Flush ? 'flush' : `${words[command]} of ${lengthBytes} bytes at ${offsetBytes}`;
}

function failure(device: string, request: WireRequest, answer: Answer): CofferdamError {
  const { offsetBytes, lengthBytes } = request;
  const errno = Object.entries(Errno).find(([, number]) => number === answer.errno)?.[0] ?? answer.errno;
  const said = answer.words === '' ? '' : ` (${answer.words})`;
  return new CofferdamError(
    codes[answer.errno] ?? 'DEVICE_IO',
    `${device}: ${describe(request)} failed at the server with ${errno}${said}`,
    { device, offsetBytes, lengthBytes },
  );
}

function lost(device: string, request: WireRequest, cause: unknown): CofferdamError {
  const { offsetBytes, lengthBytes } = request;
  return new CofferdamError(
    isCofferdamError(cause) ? cause.code : 'CONNECTION_LOST',
    `${device}: ${describe(request)}: ${messageOf(cause)}; whether it was done is unknown: do it again`,
    { device, offsetBytes, lengthBytes, cause },
  );
}

function differences(before: ExportTerms, after: ExportTerms): string {
  const keys = Object.keys(before) as (keyof ExportTerms)[];
  return keys
    .filter((key) => before[key] !== after[key])
    .map((key) => `${key} was ${before[key]} and is ${after[key]}`)
    .join(', ');
}
