import { invariant } from '../../runtime/errors.js';
import type { StatusExtent } from '../server/exports.js';
import {
  ChunkFlag,
  ChunkType,
  Command,
  Errno,
  Length,
  MAX_STRING_BYTES,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from '../protocol.js';
import type { Exchange } from './exchange.js';
import { violation, wordsOf } from './export-terms.js';

/** What all replies begin with; a structured one has a length after it. */
const HEAD_BYTES = Length.SimpleReply;
const CHUNK_LENGTH_BYTES = Length.ChunkHeader - HEAD_BYTES;
const OFFSET_BYTES = 8;
const HOLE_BYTES = 12;

/** An error chunk has two numbers, a text and perhaps an offset; unknown kinds of them get some room. */
const MAX_ERROR_BYTES = MAX_STRING_BYTES + 256;
const MIN_ERROR_BYTES = 6;
const MIN_ERROR_OFFSET_BYTES = 14;

/** One status chunk holds up to a million extents. */
const MAX_STATUS_BYTES = 4 + 8 * 2 ** 20;

type Step = (bytes: Buffer, at: number) => void;

interface Chunk {
  exchange: Exchange;
  cookie: number;
  type: number;
  isLast: boolean;
}

/**
 * Takes the bytes of a server as they come and hands each to the exchange that it belongs to. Data goes straight from
 * the packet into the buffer of whoever reads; all else is parsed where it lies, and copied only where a packet ends in
 * the middle of it.
 *
 * Invariants:
 * 1. No length that a server states is waited for, or has memory reserved for it, before it was found to be sensible.
 * 2. Either `#sink` is being filled, or `#step` waits for `#needBytes` bytes, of which there is at least one.
 */
export class ReplyParser {
  readonly #pending: Map<number, Exchange>;
  readonly #peer: { structuredReplies: boolean; allocationContext: number | undefined };

  #step: Step = this.#head;
  #needBytes: number = HEAD_BYTES;
  /** The beginning of what `#step` waits for. */
  #held: Buffer = Buffer.alloc(0);
  #heldBytes = 0;

  #sink: Uint8Array | undefined;
  #sinkBytes = 0;

  #chunk: Chunk | undefined;

  /** @param pending the exchanges that wait for replies, by their cookies; the parser takes out what is answered. */
  constructor(
    pending: Map<number, Exchange>,
    peer: { structuredReplies: boolean; allocationContext: number | undefined },
  ) {
    this.#pending = pending;
    this.#peer = peer;
  }

  /** @throws CofferdamError PROTOCOL_ERROR. Nothing that comes afterwards has a meaning. */
  push(packet: Buffer): void {
    for (let at = 0; at < packet.length;) {
      at += this.#sink ? this.#fill(this.#sink, packet, at) : this.#take(packet, at);
    }
  }

  #fill(sink: Uint8Array, packet: Buffer, at: number): number {
    const bytes = Math.min(sink.length - this.#sinkBytes, packet.length - at);
    sink.set(packet.subarray(at, at + bytes), this.#sinkBytes);
    this.#sinkBytes += bytes;
    if (this.#sinkBytes === sink.length) {
      this.#sink = undefined;
      this.#endOfChunk();
    }
    return bytes;
  }

  #take(packet: Buffer, at: number): number {
    const needBytes = this.#needBytes;
    const isWhole = this.#heldBytes === 0 && packet.length - at >= needBytes;
    if (isWhole) {
      this.#step(packet, at);
      return needBytes;
    }
    if (this.#heldBytes === 0) this.#held = Buffer.allocUnsafe(needBytes);
    const taken = packet.copy(this.#held, this.#heldBytes, at);
    this.#heldBytes += taken;
    if (this.#heldBytes === needBytes) {
      this.#heldBytes = 0;
      this.#step(this.#held, 0);
    }
    return taken;
  }

  #expect(needBytes: number, step: Step): void {
    this.#needBytes = needBytes;
    this.#step = step;
  }

  #head(bytes: Buffer, at: number): void {
    const magic = bytes.readUInt32BE(at);
    const cookie = bytes.readUInt32BE(at + 12);
    const exchange = bytes.readUInt32BE(at + 8) === 0 ? this.#pending.get(cookie) : undefined;
    if (magic !== SIMPLE_REPLY_MAGIC && magic !== STRUCTURED_REPLY_MAGIC) {
      throw violation(`0x${magic.toString(16)} where a reply begins`);
    }
    if (!exchange) throw violation('a reply to a request that was not sent, or was answered before');
    if (magic === SIMPLE_REPLY_MAGIC) {
      this.#simple({ exchange, cookie, type: ChunkType.None, isLast: true }, bytes.readUInt32BE(at + 4));
      return;
    }
    if (!this.#peer.structuredReplies) throw violation('a structured reply that was not agreed upon');
    const isLast = (bytes.readUInt16BE(at + 4) & ChunkFlag.Done) !== 0;
    this.#chunk = { exchange, cookie, type: bytes.readUInt16BE(at + 6), isLast };
    this.#expect(CHUNK_LENGTH_BYTES, this.#chunkLength);
  }

  #simple(chunk: Chunk, errno: number): void {
    const { request } = chunk.exchange;
    const needsChunks = request.into !== undefined || request.command === Command.BlockStatus;
    if (this.#peer.structuredReplies && needsChunks)
      throw violation('a simple reply where a structured one was agreed upon');
    this.#chunk = chunk;
    if (errno !== Errno.Ok) chunk.exchange.fail(errno, '');
    if (errno === Errno.Ok && request.into) {
      this.#sinkInto(chunk.exchange.place(request.offsetBytes, request.lengthBytes));
    } else {
      this.#endOfChunk();
    }
  }

  #chunkLength(bytes: Buffer, at: number): void {
    const chunk = this.#current();
    const lengthBytes = bytes.readUInt32BE(at);
    const { type } = chunk;
    const bad = (): Error => violation(`a chunk of type ${type} with ${lengthBytes} bytes`);
    if (type === ChunkType.None) {
      if (lengthBytes > 0 || !chunk.isLast) throw bad();
      this.#endOfChunk();
    } else if (type === ChunkType.OffsetData) {
      if (lengthBytes <= OFFSET_BYTES) throw bad();
      this.#expect(OFFSET_BYTES, (from, start) => {
        this.#sinkInto(chunk.exchange.place(offsetAt(from, start), lengthBytes - OFFSET_BYTES));
      });
    } else if (type === ChunkType.OffsetHole) {
      if (lengthBytes !== HOLE_BYTES) throw bad();
      this.#expect(HOLE_BYTES, this.#hole);
    } else if (type === ChunkType.BlockStatus) {
      if (lengthBytes < 12 || lengthBytes % 8 !== 4 || lengthBytes > MAX_STATUS_BYTES) throw bad();
      this.#expect(lengthBytes, (from, start) => this.#status(from.subarray(start, start + lengthBytes)));
    } else if (isError(type)) {
      const least = type === ChunkType.ErrorOffset ? MIN_ERROR_OFFSET_BYTES : MIN_ERROR_BYTES;
      if (lengthBytes < least || lengthBytes > MAX_ERROR_BYTES) throw bad();
      this.#expect(lengthBytes, (from, start) => {
        this.#error(from.subarray(start, start + lengthBytes), lengthBytes - (least - MIN_ERROR_BYTES));
      });
    } else {
      throw bad();
    }
  }

  #hole(bytes: Buffer, at: number): void {
    this.#current().exchange.hole(offsetAt(bytes, at), bytes.readUInt32BE(at + OFFSET_BYTES));
    this.#endOfChunk();
  }

  #status(payload: Buffer): void {
    const context = payload.readUInt32BE(0);
    if (context !== this.#peer.allocationContext)
      throw violation(`a block status of context ${context}, which was not agreed upon`);
    const extents: StatusExtent[] = [];
    for (let at = 4; at < payload.length; at += 8) {
      extents.push({ lengthBytes: payload.readUInt32BE(at), flags: payload.readUInt32BE(at + 4) });
    }
    this.#current().exchange.status(extents);
    this.#endOfChunk();
  }

  /** @param roomBytes how many bytes of the payload number and text have between them. */
  #error(payload: Buffer, roomBytes: number): void {
    const errno = payload.readUInt32BE(0);
    const textBytes = payload.readUInt16BE(4);
    if (errno === Errno.Ok) throw violation('an error chunk without an error');
    if (textBytes > roomBytes - MIN_ERROR_BYTES)
      throw violation('an error chunk whose text does not fit into it');
    this.#current().exchange.fail(
      errno,
      wordsOf(payload.subarray(MIN_ERROR_BYTES, MIN_ERROR_BYTES + textBytes)),
    );
    this.#endOfChunk();
  }

  #sinkInto(sink: Uint8Array): void {
    this.#sink = sink;
    this.#sinkBytes = 0;
  }

  #endOfChunk(): void {
    const { exchange, cookie, isLast } = this.#current();
    this.#chunk = undefined;
    this.#expect(HEAD_BYTES, this.#head);
    if (!isLast) return;
    exchange.finish();
    this.#pending.delete(cookie);
  }

  #current(): Chunk {
    invariant(this.#chunk !== undefined, 'there is no reply whose parts are parsed');
    return this.#chunk;
  }
}

function isError(type: number): boolean {
  return type >= 2 ** 15;
}

/** Inexact beyond 2^53, which is past the end of any device. */
function offsetAt(bytes: Buffer, at: number): number {
  return bytes.readUInt32BE(at) * 2 ** 32 + bytes.readUInt32BE(at + 4);
}
