import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { CofferdamError, isCofferdamError } from '../../runtime/errors.js';
import {
  BASE_ALLOCATION,
  HandshakeFlag,
  InfoType,
  Length,
  Option,
  OPTION_MAGIC,
  OptionReply,
  SERVER_MAGIC,
} from '../protocol.js';
import { readExactly } from '../read-exactly.js';
import type { NbdUri } from '../uri.js';
import {
  checkedTerms,
  defaultBlockSizes,
  violation,
  type BlockSizes,
  type ExportTerms,
} from './export-terms.js';
import { askOption, optionHeader, type OptionOutcome, type Reply } from './options.js';
import { encrypted } from './tls.js';
import { uint16, uint32 } from '../numbers.js';

/** The zeros that follow the reply to EXPORT_NAME unless both sides do without them. */
const PADDING_BYTES = 124;

/** A server with which the transmission phase has begun. */
export interface Peer {
  /** The connection, wrapped in TLS if the URI asks for it. Paused. */
  readonly stream: Duplex;
  readonly terms: ExportTerms;
  readonly structuredReplies: boolean;
  /** The number by which this connection knows `base:allocation`, if the server answers for it. */
  readonly allocationContext: number | undefined;
}

/** What the options before the choice of an export have led to. */
interface Agreed {
  structuredReplies: boolean;
  allocationContext: number | undefined;
}

/**
 * The client's side of the fixed newstyle handshake. Everything is asked for that makes transmission better, and
 * nothing is needed but an export: a server that knows no GO is asked with EXPORT_NAME.
 *
 * @throws CofferdamError UNKNOWN_EXPORT, CONNECTION_FAILED, CONNECTION_LOST, PROTOCOL_ERROR, DEVICE_UNSUPPORTED
 */
export async function shakeHands(socket: Socket, uri: NbdUri): Promise<Peer> {
  const greeting = await readExactly(socket, Length.Greeting);
  if (greeting.readBigUInt64BE(0) !== SERVER_MAGIC)
    throw violation('something that is no greeting of an NBD server');
  if (greeting.readBigUInt64BE(8) !== OPTION_MAGIC)
    throw violation('a greeting of the old style, without options');
  const offered = greeting.readUInt16BE(16);
  const isFixed = (offered & HandshakeFlag.FixedNewstyle) !== 0;
  const taken = offered & (HandshakeFlag.FixedNewstyle | HandshakeFlag.NoZeroes);
  const clientFlags = Buffer.alloc(Length.ClientFlags);
  clientFlags.writeUInt32BE(taken);
  socket.write(clientFlags);
  const isPadded = (taken & HandshakeFlag.NoZeroes) === 0;

  // Encryption comes first: nothing that is said before it can be relied upon.
  const stream = uri.tls ? await startTls(socket, uri, isFixed) : socket;
  if (!isFixed)
    return await openByName(stream, uri, isPadded, {
      structuredReplies: false,
      allocationContext: undefined,
    });
  const agreed = await agree(stream, uri);
  return (await go(stream, uri, agreed)) ?? (await openByName(stream, uri, isPadded, agreed));
}

async function startTls(socket: Socket, uri: NbdUri, isFixed: boolean): Promise<Duplex> {
  const outcome: OptionOutcome = isFixed
    ? await askOption(socket, Option.StartTls)
    : { agreed: false, type: OptionReply.ErrUnsupported, words: 'it knows no options' };
  if (outcome.agreed) return encrypted(socket, uri);
  throw new CofferdamError(
    'CONNECTION_FAILED',
    `the server refuses TLS${because(outcome.words)}; ask it with nbd`,
  );
}

async function agree(stream: Duplex, uri: NbdUri): Promise<Agreed> {
  const structured = await askOption(stream, Option.StructuredReply);
  if (!structured.agreed) return { structuredReplies: false, allocationContext: undefined };
  const contexts = await askOption(
    stream,
    Option.SetMetaContext,
    Buffer.concat([text(uri.exportName), uint32(1), text(BASE_ALLOCATION)]),
  );
  // A server may lack the context, or know nothing of contexts.
  const context = contexts.agreed ? contexts.replies.find(isAllocation) : undefined;
  return { structuredReplies: true, allocationContext: context?.data.readUInt32BE(0) };
}

function isAllocation({ type, data }: Reply): boolean {
  return type === OptionReply.MetaContext && data.length >= 4 && data.toString('utf8', 4) === BASE_ALLOCATION;
}

/** @returns undefined if the server does not know GO. */
async function go(stream: Duplex, uri: NbdUri, agreed: Agreed): Promise<Peer | undefined> {
  const requests = [InfoType.BlockSize];
  const data = Buffer.concat([text(uri.exportName), uint16(requests.length), ...requests.map(uint16)]);
  const outcome = await askOption(stream, Option.Go, data);
  if (!outcome.agreed) {
    if (outcome.type === OptionReply.ErrUnsupported) return undefined;
    throw refusal(uri, outcome.type, outcome.words);
  }
  const infos = outcome.replies.filter(({ type }) => type === OptionReply.Info).map((reply) => reply.data);
  const about = infoOf(infos, InfoType.Export, 12);
  if (!about) throw violation('its consent to GO without the size of the export');
  const terms = checkedTerms(
    { size: about.readBigUInt64BE(2), flags: about.readUInt16BE(10) },
    blockSizesOf(infoOf(infos, InfoType.BlockSize, 14)),
    agreed.allocationContext !== undefined,
  );
  return { stream, terms, ...agreed };
}

/** The last information of a kind. */
function infoOf(infos: readonly Buffer[], type: number, lengthBytes: number): Buffer | undefined {
  const found = infos.findLast((data) => data.length >= 2 && data.readUInt16BE(0) === type);
  if (found && found.length !== lengthBytes) throw violation(`information ${type} of ${found.length} bytes`);
  return found;
}

function blockSizesOf(data: Buffer | undefined): BlockSizes {
  if (!data) return defaultBlockSizes;
  return {
    minimumBytes: data.readUInt32BE(2),
    preferredBytes: data.readUInt32BE(6),
    maximumBytes: data.readUInt32BE(10),
  };
}

function refusal(uri: NbdUri, type: number, words: string): CofferdamError {
  const name = JSON.stringify(uri.exportName);
  switch (type) {
    case OptionReply.ErrTlsRequired:
      return new CofferdamError(
        'CONNECTION_FAILED',
        `the server demands TLS${because(words)}; ask it with nbds`,
      );
    case OptionReply.ErrShutdown:
      return new CofferdamError('CONNECTION_FAILED', `the server is shutting down${because(words)}`);
    case OptionReply.ErrUnknown:
      return new CofferdamError('UNKNOWN_EXPORT', `the server has no export ${name}${because(words)}`);
    default:
      return new CofferdamError(
        'UNKNOWN_EXPORT',
        `the server refuses export ${name} with reply ${type - 2 ** 31}${because(words)}`,
      );
  }
}

/** The way that every server knows. It cannot tell why it fails: the server just hangs up. */
async function openByName(stream: Duplex, uri: NbdUri, isPadded: boolean, agreed: Agreed): Promise<Peer> {
  const name = Buffer.from(uri.exportName);
  stream.write(Buffer.concat([optionHeader(Option.ExportName, name.length), name]));
  try {
    const reply = await readExactly(stream, 10 + (isPadded ? PADDING_BYTES : 0));
    const stated = { size: reply.readBigUInt64BE(0), flags: reply.readUInt16BE(8) };
    return {
      stream,
      terms: checkedTerms(stated, defaultBlockSizes, agreed.allocationContext !== undefined),
      ...agreed,
    };
  } catch (cause) {
    if (!isCofferdamError(cause, 'CONNECTION_LOST')) throw cause;
    throw new CofferdamError(
      'UNKNOWN_EXPORT',
      `the server hung up when it was asked for export ${JSON.stringify(uri.exportName)}; it may not have it`,
      { cause },
    );
  }
}

function because(words: string): string {
  return words === '' ? '' : ` (${words})`;
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([uint32(bytes.length), bytes]);
}
