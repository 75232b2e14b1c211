import { CofferdamError } from '../../runtime/errors.js';
import { Command, Errno, Length, REQUEST_MAGIC, type ErrorNumber } from '../protocol.js';
import { decodeRequest, payloadBytesOf, type Request } from './request.js';

/** What a {@link RequestParser} tells of the requests it finds, in the order in which they came. */
export interface RequestSink {
  /** Whether no further request is wanted for now. */
  readonly full: boolean;
  /** A header has come. Answers whether the request may go on; its payload is passed over if not. */
  begin(request: Request): ErrorNumber;
  /** A request is whole. Its payload lies at `at` in `bytes`, which are not used for anything else from now on. */
  complete(request: Request, bytes: Buffer, at: number): void;
  /** A write is whole whose payload came in several packets. Its pieces are not used for anything else from now on. */
  completeWrite(request: Request, pieces: readonly Buffer[]): void;
  /** A request that may not go on, and all of whose payload was passed over. */
  refuse(request: Request, errno: ErrorNumber): void;
}

/** A write whose payload comes in several packets. They are kept as they came: to put them together would be a copy. */
interface Filling {
  request: Request;
  pieces: Buffer[];
  leftBytes: number;
}

const nothing = Buffer.alloc(0);

/**
 * Cuts a stream of bytes into requests, however it was cut into packets.
 *
 * Invariants:
 * 1. Between two calls, at most one of: part of a header is kept, a payload is being filled, a payload is being passed
 *    over.
 * 2. Every header that was begun is either completed or refused, once, after the last byte of its payload.
 */
export class RequestParser {
  readonly #sink: RequestSink;
  readonly #header = Buffer.alloc(Length.RequestHeader);
  #headerBytes = 0;
  #filling: Filling | undefined;
  #passing: { request: Request; errno: ErrorNumber; leftBytes: number } | undefined;

  constructor(sink: RequestSink) {
    this.#sink = sink;
  }

  /**
   * Takes bytes until there are no more, or the sink is full and the next request would begin.
   *
   * @returns how many were taken; the others are to be given again.
   * @throws CofferdamError PROTOCOL_ERROR: the two sides are out of step for good.
   */
  push(chunk: Buffer): number {
    let at = 0;
    while (at < chunk.length) {
      if (this.#filling) at = this.#fill(this.#filling, chunk, at);
      else if (this.#passing) at = this.#pass(this.#passing, chunk, at);
      else if (this.#sink.full) break;
      else at = this.#takeHeader(chunk, at);
    }
    return at;
  }

  #takeHeader(chunk: Buffer, at: number): number {
    if (this.#headerBytes === 0 && chunk.length - at >= Length.RequestHeader) {
      return this.#begin(chunk, at, chunk, at + Length.RequestHeader);
    }
    const end = Math.min(chunk.length, at + Length.RequestHeader - this.#headerBytes);
    chunk.copy(this.#header, this.#headerBytes, at, end);
    this.#headerBytes += end - at;
    if (this.#headerBytes < Length.RequestHeader) return end;
    this.#headerBytes = 0;
    return this.#begin(this.#header, 0, chunk, end);
  }

  /** @param at where in `chunk` the payload begins. */
  #begin(header: Buffer, headerAt: number, chunk: Buffer, at: number): number {
    if (header.readUInt32BE(headerAt) !== REQUEST_MAGIC) {
      throw new CofferdamError('PROTOCOL_ERROR', 'the client sent something that is not an NBD request');
    }
    const request = decodeRequest(header, headerAt);
    const payloadBytes = payloadBytesOf(request);
    const errno = this.#sink.begin(request);
    if (errno !== Errno.Ok) {
      const passing = { request, errno, leftBytes: payloadBytes };
      this.#passing = passing;
      return this.#pass(passing, chunk, at);
    }
    if (chunk.length - at >= payloadBytes) {
      // All of it is here already: it need not be copied.
      this.#sink.complete(request, payloadBytes === 0 ? nothing : chunk, at);
      return request.command === Command.Disconnect ? chunk.length : at + payloadBytes;
    }
    const filling = { request, pieces: [], leftBytes: payloadBytes };
    this.#filling = filling;
    return this.#fill(filling, chunk, at);
  }

  #fill(filling: Filling, chunk: Buffer, at: number): number {
    const piece = chunk.subarray(at, at + filling.leftBytes);
    if (piece.length > 0) filling.pieces.push(piece);
    filling.leftBytes -= piece.length;
    if (filling.leftBytes === 0) {
      this.#filling = undefined;
      this.#sink.completeWrite(filling.request, filling.pieces);
    }
    return at + piece.length;
  }

  #pass(
    passing: { request: Request; errno: ErrorNumber; leftBytes: number },
    chunk: Buffer,
    at: number,
  ): number {
    const passed = Math.min(passing.leftBytes, chunk.length - at);
    passing.leftBytes -= passed;
    if (passing.leftBytes === 0) {
      this.#passing = undefined;
      this.#sink.refuse(passing.request, passing.errno);
    }
    return at + passed;
  }
}
