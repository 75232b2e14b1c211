/**
 * The numbers of the NBD protocol, fixed newstyle, all big-endian on the wire.
 *
 * Source: doc/proto.md of the NBD project.
 */

/** The port of NBD over TCP where a URI names none. */
export const DEFAULT_PORT = 10809;

/** `NBDMAGIC`: the first eight bytes that a server sends. */
export const SERVER_MAGIC = 0x4e42444d41474943n;
/** `IHAVEOPT`: after it a server greets, and every option of a client begins with it. */
export const OPTION_MAGIC = 0x49484156454f5054n;
export const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;
export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;

/** Lengths of what has a fixed one, in bytes. */
export const Length = {
  /** Magic, magic, handshake flags. */
  Greeting: 18,
  ClientFlags: 4,
  /** Magic, option, length of its data. */
  OptionHeader: 16,
  /** Magic, option, reply type, length of its data. */
  OptionReplyHeader: 20,
  /** Magic, command flags, command, cookie, offset, length. */
  RequestHeader: 28,
  /** Magic, error, cookie. */
  SimpleReply: 16,
  /** Magic, chunk flags, chunk type, cookie, length of its payload. */
  ChunkHeader: 20,
} as const;

/** No string, so no export name either, may be longer than this in bytes of UTF-8. */
export const MAX_STRING_BYTES = 4096;

/** The most that one READ or WRITE may carry, in bytes: what all known peers can. */
export const MAX_PAYLOAD_BYTES = 32 * 1024 * 1024;

/** Handshake flags of the server; those of a client have the same bits. */
export const HandshakeFlag = { FixedNewstyle: 1 << 0, NoZeroes: 1 << 1 } as const;

export const Option = {
  ExportName: 1,
  Abort: 2,
  List: 3,
  StartTls: 5,
  Info: 6,
  Go: 7,
  StructuredReply: 8,
  ListMetaContext: 9,
  SetMetaContext: 10,
  ExtendedHeaders: 11,
} as const;

export const OptionReply = {
  Ack: 1,
  Server: 2,
  Info: 3,
  MetaContext: 4,
  ErrUnsupported: 2 ** 31 + 1,
  ErrPolicy: 2 ** 31 + 2,
  ErrInvalid: 2 ** 31 + 3,
  ErrPlatform: 2 ** 31 + 4,
  ErrTlsRequired: 2 ** 31 + 5,
  ErrUnknown: 2 ** 31 + 6,
  ErrShutdown: 2 ** 31 + 7,
  ErrBlockSizeRequired: 2 ** 31 + 8,
  ErrTooBig: 2 ** 31 + 9,
} as const;

/** Kinds of information in the replies to INFO and GO. */
export const InfoType = { Export: 0, Name: 1, Description: 2, BlockSize: 3 } as const;

/** What an export can do; 16 bits. */
export const TransmissionFlag = {
  HasFlags: 1 << 0,
  ReadOnly: 1 << 1,
  SendFlush: 1 << 2,
  SendFua: 1 << 3,
  Rotational: 1 << 4,
  SendTrim: 1 << 5,
  SendWriteZeroes: 1 << 6,
  SendDf: 1 << 7,
  CanMultiConn: 1 << 8,
  SendResize: 1 << 9,
  SendCache: 1 << 10,
  SendFastZero: 1 << 11,
} as const;

export const Command = {
  Read: 0,
  Write: 1,
  Disconnect: 2,
  Flush: 3,
  Trim: 4,
  Cache: 5,
  WriteZeroes: 6,
  BlockStatus: 7,
} as const;

export const CommandFlag = {
  Fua: 1 << 0,
  NoHole: 1 << 1,
  /** Do not fragment: a READ is answered in one data chunk. */
  Df: 1 << 2,
  ReqOne: 1 << 3,
  FastZero: 1 << 4,
} as const;

export const ChunkFlag = { Done: 1 << 0 } as const;

export const ChunkType = {
  None: 0,
  OffsetData: 1,
  OffsetHole: 2,
  BlockStatus: 5,
  Error: 2 ** 15 + 1,
  ErrorOffset: 2 ** 15 + 2,
} as const;

/** Errors on the wire. */
export const Errno = {
  Ok: 0,
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

export type ErrorNumber = (typeof Errno)[keyof typeof Errno];

/** The metadata context that tells where there is data and where holes. */
export const BASE_ALLOCATION = 'base:allocation';

/** Bits of a descriptor of {@link BASE_ALLOCATION}. */
export const AllocationFlag = { Hole: 1 << 0, Zero: 1 << 1 } as const;
