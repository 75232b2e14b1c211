import type { StatusExtent } from '../server/exports.js';
import { Command, Errno, Length, REQUEST_MAGIC } from '../protocol.js';
import { Coverage } from './coverage.js';
import { violation } from './export-terms.js';

/** What one request asks of the server: aligned, and no longer than the server allows. */
export interface WireRequest {
  readonly command: number;
  readonly flags: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** What a WRITE writes; `lengthBytes` long. */
  readonly payload?: Uint8Array;
  /** Where a READ puts what it reads; `lengthBytes` long. */
  readonly into?: Uint8Array;
}

/** How a server answered. */
export interface Answer {
  /** {@link Errno.Ok}, or why the server refused or failed. */
  readonly errno: number;
  /** What the server says about its failure. */
  readonly words: string;
  /** The answer to BLOCK_STATUS; otherwise empty. */
  readonly extents: readonly StatusExtent[];
}

/**
 * A request on its way and the reply as it comes in, piece by piece. Every method that takes a piece throws
 * PROTOCOL_ERROR where a piece does not belong to this request.
 *
 * Invariants:
 * 1. Nothing is written outside `request.into`, and every byte of it at most once.
 * 2. It settles once: answered without an error only if every byte asked for was there.
 */
export class Exchange {
  readonly request: WireRequest;
  readonly #settle: { resolve: (answer: Answer) => void; reject: (error: Error) => void };
  readonly #coverage: Coverage;
  #errno: number = Errno.Ok;
  #words = '';
  #extents: readonly StatusExtent[] | undefined;

  constructor(
    request: WireRequest,
    settle: { resolve: (answer: Answer) => void; reject: (error: Error) => void },
  ) {
    this.request = request;
    this.#settle = settle;
    this.#coverage = new Coverage(request.lengthBytes);
  }

  /** Where `lengthBytes` of data that come next belong. */
  place(offsetBytes: number, lengthBytes: number): Uint8Array {
    const { into } = this.request;
    if (!into) throw violation('data in reply to a request that reads none');
    const at = offsetBytes - this.request.offsetBytes;
    if (at < 0 || lengthBytes > into.length - at) throw violation('data outside of what was asked for');
    if (!this.#coverage.add(at, lengthBytes)) throw violation('the same bytes twice in one reply');
    return into.subarray(at, at + lengthBytes);
  }

  hole(offsetBytes: number, lengthBytes: number): void {
    if (lengthBytes === 0) throw violation('a hole of no bytes');
    this.place(offsetBytes, lengthBytes).fill(0);
  }

  status(extents: readonly StatusExtent[]): void {
    if (this.request.command !== Command.BlockStatus) throw violation('a block status that nobody asked for');
    if (this.#extents) throw violation('two block statuses of one context in one reply');
    if (extents.some(({ lengthBytes }) => lengthBytes === 0)) throw violation('a block status of no bytes');
    this.#extents = extents;
  }

  /** The first failure of a reply is the one that is told. */
  fail(errno: number, words: string): void {
    if (this.#errno !== Errno.Ok) return;
    this.#errno = errno;
    this.#words = words;
  }

  /** The reply is complete. */
  finish(): void {
    if (this.#errno === Errno.Ok) {
      if (this.request.into && !this.#coverage.isComplete)
        throw violation('the end of a reply before all of its data');
      if (this.request.command === Command.BlockStatus && !this.#extents) {
        throw violation('the end of a reply without the block status that was asked for');
      }
    }
    this.#settle.resolve({ errno: this.#errno, words: this.#words, extents: this.#extents ?? [] });
  }

  /** There will be no reply. */
  abandon(error: Error): void {
    this.#settle.reject(error);
  }
}

export function encodeRequest(
  { command, flags, offsetBytes, lengthBytes }: WireRequest,
  cookie: number,
): Buffer {
  const header = Buffer.allocUnsafe(Length.RequestHeader);
  header.writeUInt32BE(REQUEST_MAGIC, 0);
  header.writeUInt16BE(flags, 4);
  header.writeUInt16BE(command, 6);
  header.writeUInt32BE(0, 8);
  header.writeUInt32BE(cookie, 12);
  header.writeUInt32BE(Math.floor(offsetBytes / 2 ** 32), 16);
  header.writeUInt32BE(offsetBytes % 2 ** 32, 20);
  header.writeUInt32BE(lengthBytes, 24);
  return header;
}
