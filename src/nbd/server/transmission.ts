import type { Duplex } from 'node:stream';
import { loadCore } from '../../core/load.js';
import type { BlockDevice } from '../../devices/block-device.js';
import { realClock } from '../../runtime/clock.js';
import { isCofferdamError } from '../../runtime/errors.js';
import { MiB } from '../../runtime/sizes.js';
import { blockStatus, mostStatusBytes } from './block-status.js';
import { errnoOfFailure, wordsOfFailure } from './errno.js';
import type { MetaContext } from './exports.js';
import { NativeStream } from './native-stream.js';
import type { Negotiated } from './negotiated.js';
import { Outbox } from './outbox.js';
import { Command, CommandFlag, Errno, type ErrorNumber } from '../protocol.js';
import { ReadBatch } from './read-batch.js';
import { simpleReplies, structuredReplies, type ReplyFormat } from './reply.js';
import { RequestParser } from './request-parser.js';
import { has, refusalOf, type Agreement, type Request } from './request.js';
import { withoutTheRest, WriteBatch } from './write-batch.js';

/**
 * Once the requests of a connection and their replies take this much memory, no further one is begun. One request more
 * may have been begun just before, so a connection takes at most this and one payload.
 */
const MEMORY_BYTES = 32 * MiB;

/** What a request is charged for besides its data. */
const REQUEST_BYTES = 256;

/** The step in which CACHE reads. */
const CACHE_STEP_BYTES = MiB;

/** How long a client has to close its side after this one is closed. */
const LINGER_MS = 2000;

/**
 * The transmission phase of one connection: requests in, replies out, in whatever order the device answers.
 *
 * Invariants:
 * 1. Every request that was begun is replied to exactly once, unless the connection is gone.
 * 2. `#chargedBytes` is what the requests in flight and the replies not yet sent take. It bounds what a connection takes,
 *    however slowly its client reads, and however long its writes are parked.
 * 3. Requests do not wait for each other, but for memory: a parked write holds up nothing else.
 * 4. After a disconnect, what was begun is finished before the connection is closed.
 */
export class Transmission {
  readonly #stream: Duplex;
  readonly #device: BlockDevice;
  readonly #contexts: ReadonlyMap<number, MetaContext>;
  readonly #agreement: Agreement;
  readonly #format: ReplyFormat;
  readonly #outbox: Outbox;
  readonly #parser: RequestParser;
  readonly #writes: WriteBatch;
  #reads: ReadBatch | undefined;
  /** What was received and not yet parsed, because memory is short. */
  #rest: Buffer | undefined;
  #chargedBytes = 0;
  #inFlight = 0;
  #isDraining = false;
  #onEnded: () => void = () => {};

  constructor({ stream, export: { device }, structuredReplies: structured, contexts }: Negotiated) {
    this.#stream = stream;
    this.#device = device;
    this.#contexts = contexts;
    this.#agreement = { structuredReplies: structured, hasContexts: contexts.size > 0 };
    this.#format = structured ? structuredReplies : simpleReplies;
    this.#outbox = new Outbox(stream, (chargedBytes) => this.#refund(chargedBytes));
    this.#parser = new RequestParser(this);
    const reply = {
      succeed: (request: Request) => this.#succeed(request),
      fail: (request: Request, error: unknown) => this.#fail(request, error),
    };
    this.#writes = new WriteBatch({ device, ...reply });
  }

  /** Serves the connection; resolves when it is closed and the device is busy with none of its requests any more. */
  async run(): Promise<void> {
    const core = await loadCore();
    this.#reads = new ReadBatch({
      device: this.#device,
      core,
      format: this.#format,
      reply: (request, parts, release) => this.#reply(request, parts, release),
      fail: (request, error) => this.#fail(request, error),
    });
    if (this.#stream.destroyed) return;
    const ended = new Promise<void>((resolve) => (this.#onEnded = resolve));
    this.#stream.on('data', (chunk: Buffer) => this.#receive(chunk));
    // A client that sends no more may still want its replies.
    this.#stream.on('end', () => this.drain());
    // It is followed by `close`.
    this.#stream.on('error', () => {});
    this.#stream.on('close', () => this.drain());
    this.#stream.resume();
    await ended;
  }

  /** Takes no further request, finishes those in flight and then closes the connection. */
  drain(): void {
    this.#isDraining = true;
    this.#rest = undefined;
    if (this.#stream instanceof NativeStream) this.#stream.refuse();
    this.#stream.resume();
    this.#endIfDone();
  }

  /** Closes the connection at once; nothing more is answered. */
  destroy(): void {
    this.#stream.destroy();
  }

  /** For the parser. */
  get full(): boolean {
    return this.#chargedBytes >= MEMORY_BYTES || this.#isDraining;
  }

  /** For the parser. */
  begin(request: Request): ErrorNumber {
    const errno =
      request.command === Command.Disconnect ? Errno.Ok : refusalOf(request, this.#device, this.#agreement);
    // What is passed over takes no memory, but its reply does.
    this.#chargedBytes += this.#chargeOf(request, errno);
    return errno;
  }

  /** For the parser. */
  refuse(request: Request, errno: ErrorNumber): void {
    this.#inFlight++;
    this.#sendFailure(request, errno, 'the request was refused', this.#chargeOf(request, errno));
  }

  /** For the parser. */
  complete(request: Request, bytes: Buffer, at: number): void {
    if (request.command === Command.Disconnect) {
      this.#chargedBytes -= this.#chargeOf(request);
      this.drain();
      return;
    }
    this.#inFlight++;
    const isFua = has(request, CommandFlag.Fua);
    if (request.command === Command.Read && request.lengthBytes > 0) this.#reads?.add(request);
    else if (request.command === Command.Write && !isFua) this.#writes.add(request, bytes, at);
    else void this.#answer(request, withoutTheRest(bytes.subarray(at, at + request.lengthBytes)), isFua);
  }

  /** For the parser. */
  completeWrite(request: Request, pieces: readonly Buffer[]): void {
    this.#inFlight++;
    if (has(request, CommandFlag.Fua)) void this.#answer(request, Buffer.concat(pieces), true);
    else this.#writes.addInPieces(request, pieces);
  }

  #receive(chunk: Buffer): void {
    // What a client sent before its connection was cut off must not be begun after that: it may be back by then.
    if (this.#isDraining || this.#stream.destroyed) return;
    try {
      const taken = this.#parser.push(chunk);
      if (taken < chunk.length && !this.#isDraining) {
        this.#rest = chunk.subarray(taken);
        this.#stream.pause();
      }
    } catch {
      // Where the next request would begin is not known any more.
      this.destroy();
    }
    // What came together is begun together, and what can be answered at once is sent at once.
    this.#writes.run();
    this.#reads?.run();
    this.#outbox.flush();
  }

  async #answer(request: Request, payload: Buffer, isFua: boolean): Promise<void> {
    try {
      const parts = await this.#execute(request, payload, isFua);
      this.#reply(request, parts);
    } catch (error) {
      this.#fail(request, error);
    }
  }

  /** Whatever is not read or written in batches. */
  async #execute(request: Request, payload: Buffer, fua: boolean): Promise<Buffer[]> {
    const { offsetBytes, lengthBytes } = request;
    switch (request.command) {
      case Command.Write:
        await this.#device.write(offsetBytes, payload, { fua });
        break;
      case Command.Flush:
        await this.#device.flush();
        break;
      case Command.Trim:
        await this.#device.trim(offsetBytes, lengthBytes);
        if (fua) await this.#device.flush();
        break;
      case Command.WriteZeroes:
        await this.#device.writeZeroes(offsetBytes, lengthBytes, {
          fua,
          mayTrim: !has(request, CommandFlag.NoHole),
        });
        break;
      case Command.Cache:
        await this.#readAhead(offsetBytes, lengthBytes);
        break;
      case Command.BlockStatus:
        return blockStatus(request, this.#contexts);
    }
    return [this.#format.success(request)];
  }

  /** Reads for no other purpose than that what lies beneath may keep it at hand. */
  async #readAhead(offsetBytes: number, lengthBytes: number): Promise<void> {
    const scratch = Buffer.allocUnsafe(Math.min(lengthBytes, CACHE_STEP_BYTES));
    for (let done = 0; done < lengthBytes && !this.#stream.destroyed; done += CACHE_STEP_BYTES) {
      const length = Math.min(lengthBytes - done, CACHE_STEP_BYTES);
      await this.#device.read(offsetBytes + done, scratch.subarray(0, length));
    }
  }

  #succeed(request: Request): void {
    this.#reply(request, [this.#format.success(request)]);
  }

  #fail(request: Request, error: unknown): void {
    // Whoever loses its power says nothing more.
    if (isCofferdamError(error, 'POWER_CUT')) this.destroy();
    this.#sendFailure(request, errnoOfFailure(error), wordsOfFailure(error), this.#chargeOf(request));
  }

  #sendFailure(request: Request, errno: ErrorNumber, words: string, chargedBytes: number): void {
    this.#finish([this.#format.failure(request, errno, words)], chargedBytes);
  }

  #reply(request: Request, parts: readonly Buffer[], release?: () => void): void {
    this.#finish(parts, this.#chargeOf(request), release);
  }

  /** The end of every request that was begun. */
  #finish(parts: readonly Buffer[], chargedBytes: number, release?: () => void): void {
    this.#inFlight--;
    this.#outbox.add(parts, chargedBytes, release);
    this.#endIfDone();
  }

  #refund(chargedBytes: number): void {
    this.#chargedBytes -= chargedBytes;
    const rest = this.#rest;
    if (!rest || this.full) return;
    this.#rest = undefined;
    this.#receive(rest);
    if (!this.#rest) this.#stream.resume();
  }

  #endIfDone(): void {
    if (!this.#isDraining || this.#inFlight > 0) return;
    this.#outbox.flush();
    if (this.#stream.destroyed) {
      this.#onEnded();
    } else if (!this.#stream.writableEnded) {
      this.#stream.once('finish', () => this.#linger());
      this.#stream.end();
    }
  }

  /** Waits for the client to close its side, too. It is not hurried before all replies are on their way to it. */
  #linger(): void {
    const linger = realClock.setTimer(LINGER_MS, () => this.#stream.destroy());
    this.#stream.once('close', () => linger[Symbol.dispose]());
  }

  /** What a request takes until its reply is sent; one that is refused takes no more than its reply. */
  #chargeOf(request: Request, errno: ErrorNumber = Errno.Ok): number {
    return REQUEST_BYTES + (errno === Errno.Ok ? this.#dataBytesOf(request) : 0);
  }

  #dataBytesOf(request: Request): number {
    switch (request.command) {
      case Command.Read:
      case Command.Write:
        return request.lengthBytes;
      case Command.Cache:
        return Math.min(request.lengthBytes, CACHE_STEP_BYTES);
      case Command.BlockStatus:
        return this.#contexts.size * mostStatusBytes(request);
      default:
        return 0;
    }
  }
}
