import {
  ChunkFlag,
  ChunkType,
  type ErrorNumber,
  Length,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from '../protocol.js';
import type { Request } from './request.js';

/** How a connection's replies are written; which one was agreed upon in the handshake. */
export interface ReplyFormat {
  /** How many bytes stand before the data in the reply to a read. */
  readonly readHeaderBytes: number;
  /** Whether a read may be answered in parts, and zeros by saying so. */
  readonly canFragment: boolean;
  /** Writes what stands before the data of a read that succeeded and is answered in one part. */
  putReadHeader(into: Buffer, at: number, request: Request): void;
  /** The reply to a request that succeeded and asked for no data. */
  success(request: Request): Buffer;
  /** @param message for people; where there is no room for it, it is left out. */
  failure(request: Request, errno: ErrorNumber, message: string): Buffer;
}

type Cookie = Pick<Request, 'cookieHigh' | 'cookieLow'>;

export const simpleReplies: ReplyFormat = {
  readHeaderBytes: Length.SimpleReply,
  canFragment: false,
  putReadHeader: (into, at, request) => putSimple(into, at, request, 0),
  success: (request) => simple(request, 0),
  failure: (request, errno) => simple(request, errno),
};

/** Every reply is structured, also where a simple one would be allowed: the client need not tell them apart. */
export const structuredReplies: ReplyFormat = {
  readHeaderBytes: Length.ChunkHeader + 8,
  canFragment: true,
  putReadHeader(into, at, request) {
    putDataHeader(into, at, request, request.offsetBytes, request.lengthBytes, true);
  },
  success(request) {
    const reply = Buffer.allocUnsafe(Length.ChunkHeader);
    putChunkHeader(reply, 0, request, ChunkType.None, 0, true);
    return reply;
  },
  failure(request, errno, message) {
    const text = Buffer.from(message);
    const reply = Buffer.allocUnsafe(Length.ChunkHeader + 6 + text.length);
    putChunkHeader(reply, 0, request, ChunkType.Error, 6 + text.length, true);
    reply.writeUInt32BE(errno, Length.ChunkHeader);
    reply.writeUInt16BE(text.length, Length.ChunkHeader + 4);
    text.copy(reply, Length.ChunkHeader + 6);
    return reply;
  },
};

/** What stands before `lengthBytes` of data in a chunk of a structured reply; `readHeaderBytes` long. */
export function dataHeader(
  request: Request,
  offsetBytes: number,
  lengthBytes: number,
  done: boolean,
): Buffer {
  const header = Buffer.allocUnsafe(structuredReplies.readHeaderBytes);
  putDataHeader(header, 0, request, offsetBytes, lengthBytes, done);
  return header;
}

/** A chunk that says that a range of a read is zeros. */
export function holeChunk(request: Request, offsetBytes: number, lengthBytes: number, done: boolean): Buffer {
  const chunk = Buffer.allocUnsafe(Length.ChunkHeader + 12);
  putChunkHeader(chunk, 0, request, ChunkType.OffsetHole, 12, done);
  putUInt64(chunk, Length.ChunkHeader, offsetBytes);
  chunk.writeUInt32BE(lengthBytes, Length.ChunkHeader + 8);
  return chunk;
}

/** A chunk with the extents of one metadata context. */
export function statusChunk(
  request: Request,
  contextId: number,
  extents: readonly { lengthBytes: number; flags: number }[],
  done: boolean,
): Buffer {
  const payloadBytes = 4 + 8 * extents.length;
  const chunk = Buffer.allocUnsafe(Length.ChunkHeader + payloadBytes);
  putChunkHeader(chunk, 0, request, ChunkType.BlockStatus, payloadBytes, done);
  let at = chunk.writeUInt32BE(contextId, Length.ChunkHeader);
  for (const { lengthBytes, flags } of extents) {
    at = chunk.writeUInt32BE(lengthBytes, at);
    at = chunk.writeUInt32BE(flags, at);
  }
  return chunk;
}

function simple(cookie: Cookie, errno: number): Buffer {
  const reply = Buffer.allocUnsafe(Length.SimpleReply);
  putSimple(reply, 0, cookie, errno);
  return reply;
}

function putSimple(into: Buffer, at: number, { cookieHigh, cookieLow }: Cookie, errno: number): void {
  into.writeUInt32BE(SIMPLE_REPLY_MAGIC, at);
  into.writeUInt32BE(errno, at + 4);
  into.writeUInt32BE(cookieHigh, at + 8);
  into.writeUInt32BE(cookieLow, at + 12);
}

function putChunkHeader(
  into: Buffer,
  at: number,
  { cookieHigh, cookieLow }: Cookie,
  type: number,
  payloadBytes: number,
  done: boolean,
): void {
  into.writeUInt32BE(STRUCTURED_REPLY_MAGIC, at);
  into.writeUInt16BE(done ? ChunkFlag.Done : 0, at + 4);
  into.writeUInt16BE(type, at + 6);
  into.writeUInt32BE(cookieHigh, at + 8);
  into.writeUInt32BE(cookieLow, at + 12);
  into.writeUInt32BE(payloadBytes, at + 16);
}

function putDataHeader(
  into: Buffer,
  at: number,
  cookie: Cookie,
  offsetBytes: number,
  lengthBytes: number,
  done: boolean,
): void {
  putChunkHeader(into, at, cookie, ChunkType.OffsetData, 8 + lengthBytes, done);
  putUInt64(into, at + Length.ChunkHeader, offsetBytes);
}

function putUInt64(into: Buffer, at: number, value: number): void {
  into.writeUInt32BE(Math.floor(value / 2 ** 32), at);
  into.writeUInt32BE(value % 2 ** 32, at + 4);
}
