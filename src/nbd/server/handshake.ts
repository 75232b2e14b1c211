import type { Duplex } from 'node:stream';
import { KiB } from '../../runtime/sizes.js';
import { CofferdamError } from '../../runtime/errors.js';
import type { ExportTable, NbdExport } from './exports.js';
import { listedContexts, selectContexts, type Selection } from './meta-context.js';
import type { Negotiated } from './negotiated.js';
import { decodeString, invalid, OptionData, OptionRefused } from './option-data.js';
import { infoReplies, metaContextReply, optionReply, serverReply, sizeAndFlags } from './option-reply.js';
import {
  HandshakeFlag,
  Length,
  MAX_PAYLOAD_BYTES,
  Option,
  OPTION_MAGIC,
  OptionReply,
  SERVER_MAGIC,
} from '../protocol.js';
import { readExactly } from '../read-exactly.js';
import { upgradeToTls, type ServerCredentials } from './tls.js';
import { transmissionFlags } from './transmission-flags.js';

/** Options with more data than this are passed over: room for a name and for many queries of full length. */
const MAX_OPTION_BYTES = 64 * KiB;

/** An option with more data than this, which would take long to pass over, ends the connection. */
const MAX_PASSED_OVER_BYTES = MAX_PAYLOAD_BYTES;

/** The reply to EXPORT_NAME ends with so many zeros, unless the client does without. */
const PADDING_BYTES = 124;

export interface HandshakeOptions {
  exports: ExportTable;
  tls?: { credentials: ServerCredentials; isRequired: boolean } | undefined;
}

/** An option as it came over the wire. */
interface ReceivedOption {
  option: number;
  /** Undefined where there was too much of it, which was passed over. */
  data: Buffer | undefined;
}

/**
 * The server's side of the handshake of one connection, fixed newstyle.
 *
 * Invariants:
 * 1. All data of an option is taken from the stream before the option is answered, so the next one begins where it must.
 * 2. Every option is answered with exactly one final reply, except EXPORT_NAME, which has none.
 * 3. What was agreed upon before an upgrade to TLS, and what was received before it, counts for nothing after it.
 * 4. Contexts are those of the last SET_META_CONTEXT, none if it failed, and of the export that is opened in the end.
 */
export class Handshake {
  #stream: Duplex;
  readonly #exports: ExportTable;
  readonly #tls: HandshakeOptions['tls'];
  #clientFlags = 0;
  #isSecure = false;
  #structuredReplies = false;
  #selection: Selection | undefined;
  #opened: NbdExport | undefined;

  /** @param stream nothing was read from it. */
  constructor(stream: Duplex, { exports, tls }: HandshakeOptions) {
    this.#stream = stream;
    this.#exports = exports;
    this.#tls = tls;
  }

  /** The export that the client has chosen for good. */
  get opened(): NbdExport | undefined {
    return this.#opened;
  }

  /**
   * Resolves when transmission begins, or with undefined when the client has aborted the handshake and the connection is
   * about to be closed.
   *
   * @throws Whatever it is, the connection must be closed: the client is gone, does not keep to the protocol, or asked for
   * what could not be refused otherwise.
   */
  async run(): Promise<Negotiated | undefined> {
    await this.#greet();
    for (;;) {
      const received = await this.#receive();
      const { option } = received;
      if (option === Option.ExportName) return this.#open(received);
      if (!this.#has(HandshakeFlag.FixedNewstyle)) {
        throw new CofferdamError('PROTOCOL_ERROR', 'only fixed newstyle has options besides EXPORT_NAME');
      }
      const { replies, isAccepted } = this.#answer(received);
      await this.#send(replies);
      if (!isAccepted) continue;
      if (option === Option.StartTls) await this.#upgrade();
      if (option === Option.Go) return this.#negotiated();
      if (option === Option.Abort) {
        this.#stream.end();
        this.#stream.resume();
        return undefined;
      }
    }
  }

  async #greet(): Promise<void> {
    const ours = HandshakeFlag.FixedNewstyle | HandshakeFlag.NoZeroes;
    const greeting = Buffer.alloc(Length.Greeting);
    greeting.writeBigUInt64BE(SERVER_MAGIC, 0);
    greeting.writeBigUInt64BE(OPTION_MAGIC, 8);
    greeting.writeUInt16BE(ours, 16);
    await this.#send([greeting]);
    this.#clientFlags = (await readExactly(this.#stream, Length.ClientFlags)).readUInt32BE();
    if ((this.#clientFlags & ~ours) !== 0) {
      throw new CofferdamError('PROTOCOL_ERROR', `unknown client flags ${this.#clientFlags.toString(16)}`);
    }
  }

  async #receive(): Promise<ReceivedOption> {
    const header = await readExactly(this.#stream, Length.OptionHeader);
    if (header.readBigUInt64BE(0) !== OPTION_MAGIC) {
      throw new CofferdamError('PROTOCOL_ERROR', 'what should be an option does not begin like one');
    }
    const option = header.readUInt32BE(8);
    const lengthBytes = header.readUInt32BE(12);
    if (lengthBytes > MAX_PASSED_OVER_BYTES) {
      throw new CofferdamError('PROTOCOL_ERROR', `an option with ${lengthBytes} bytes of data`);
    }
    if (lengthBytes <= MAX_OPTION_BYTES)
      return { option, data: await readExactly(this.#stream, lengthBytes) };
    for (let leftBytes = lengthBytes; leftBytes > 0; leftBytes -= MAX_OPTION_BYTES) {
      await readExactly(this.#stream, Math.min(leftBytes, MAX_OPTION_BYTES));
    }
    return { option, data: undefined };
  }

  #answer({ option, data }: ReceivedOption): { replies: Buffer[]; isAccepted: boolean } {
    // Also if it fails.
    if (option === Option.SetMetaContext) this.#selection = undefined;
    try {
      const replies = this.#carryOut(option, data);
      return { replies: [...replies, optionReply(option, OptionReply.Ack)], isAccepted: true };
    } catch (error) {
      if (!(error instanceof OptionRefused)) throw error;
      const reply = optionReply(option, error.type, Buffer.from(error.message));
      return { replies: [reply], isAccepted: false };
    }
  }

  /**
   * @returns The replies that come before the final one.
   * @throws OptionRefused
   */
  #carryOut(option: number, data: Buffer | undefined): Buffer[] {
    // A client that goes may say anything along with it.
    if (option === Option.Abort) return [];
    if (this.#tls?.isRequired && !this.#isSecure && option !== Option.StartTls) {
      throw new OptionRefused(OptionReply.ErrTlsRequired, 'this server is for TLS only; begin with STARTTLS');
    }
    const handler = this.#handlers[option];
    if (!handler) throw new OptionRefused(OptionReply.ErrUnsupported, `option ${option} is not known`);
    if (!data) throw new OptionRefused(OptionReply.ErrTooBig, `more than ${MAX_OPTION_BYTES} bytes of data`);
    return handler(new OptionData(data));
  }

  readonly #handlers: Readonly<Record<number, (data: OptionData) => Buffer[]>> = {
    [Option.List]: (data) => this.#list(data),
    [Option.StartTls]: (data) => this.#startTls(data),
    [Option.Info]: (data) => this.#info(data, Option.Info),
    [Option.Go]: (data) => this.#info(data, Option.Go),
    [Option.StructuredReply]: (data) => this.#agreeOnStructuredReplies(data),
    [Option.ListMetaContext]: (data) => this.#listContexts(data),
    [Option.SetMetaContext]: (data) => this.#setContexts(data),
  };

  #list(data: OptionData): Buffer[] {
    data.end();
    return this.#exports.list().map((each) => serverReply(Option.List, each));
  }

  #startTls(data: OptionData): Buffer[] {
    data.end();
    if (!this.#tls) throw new OptionRefused(OptionReply.ErrPolicy, 'this server has no TLS');
    if (this.#isSecure) throw invalid('TLS is in use already');
    // Whoever sits in between could have put there what would later be taken for said in confidence.
    if (this.#stream.readableLength > 0) {
      throw new CofferdamError('PROTOCOL_ERROR', 'something was sent together with STARTTLS');
    }
    return [];
  }

  #info(data: OptionData, option: number): Buffer[] {
    const name = data.string();
    const wanted = new Set<number>();
    for (let left = data.uint16(); left > 0; left--) wanted.add(data.uint16());
    data.end();
    const found = this.#find(name);
    if (option === Option.Go) this.#opened = found;
    return infoReplies(option, found, transmissionFlags(found.device, this.#structuredReplies), wanted);
  }

  #agreeOnStructuredReplies(data: OptionData): Buffer[] {
    data.end();
    this.#structuredReplies = true;
    return [];
  }

  #listContexts(data: OptionData): Buffer[] {
    const { from, queries } = this.#readQueries(data);
    return listedContexts(from, queries).map(({ name }) => metaContextReply(Option.ListMetaContext, 0, name));
  }

  #setContexts(data: OptionData): Buffer[] {
    if (!this.#structuredReplies) throw invalid('contexts need structured replies');
    const { from, queries } = this.#readQueries(data);
    this.#selection = selectContexts(from, queries);
    return [...this.#selection.contexts].map(([id, { name }]) =>
      metaContextReply(Option.SetMetaContext, id, name),
    );
  }

  #readQueries(data: OptionData): { from: NbdExport; queries: string[] } {
    const name = data.string();
    const queries: string[] = [];
    for (let left = data.uint32(); left > 0; left--) queries.push(data.string());
    data.end();
    return { from: this.#find(name), queries };
  }

  /** The empty name stands for the only export, unless one has it. */
  #find(name: string): NbdExport {
    const found = this.#exports.find(name) ?? (name === '' ? onlyOne(this.#exports.list()) : undefined);
    if (found) return found;
    throw new OptionRefused(OptionReply.ErrUnknown, `there is no export ${JSON.stringify(name)}`);
  }

  async #upgrade(): Promise<void> {
    if (!this.#tls) return;
    this.#stream = await upgradeToTls(this.#stream, this.#tls.credentials);
    this.#isSecure = true;
    this.#structuredReplies = false;
    this.#selection = undefined;
  }

  /** EXPORT_NAME, which has no way to refuse but to close the connection. */
  async #open({ data }: ReceivedOption): Promise<Negotiated> {
    if (!data || (this.#tls?.isRequired && !this.#isSecure)) {
      throw new CofferdamError('PROTOCOL_ERROR', 'EXPORT_NAME where nothing can be opened');
    }
    const opened = this.#find(decodeString(data));
    this.#opened = opened;
    const flags = transmissionFlags(opened.device, this.#structuredReplies);
    const padding = Buffer.alloc(this.#has(HandshakeFlag.NoZeroes) ? 0 : PADDING_BYTES);
    await this.#send([sizeAndFlags(opened.device.sizeBytes, flags), padding]);
    return this.#negotiated();
  }

  #negotiated(): Negotiated {
    const opened = this.#opened;
    if (!opened) throw new Error('nothing was opened');
    const isSelectionValid =
      this.#selection?.export.name === opened.name && this.#selection.export.device === opened.device;
    return {
      stream: this.#stream,
      export: opened,
      structuredReplies: this.#structuredReplies,
      contexts: isSelectionValid && this.#selection ? this.#selection.contexts : new Map(),
    };
  }

  #has(flag: number): boolean {
    return (this.#clientFlags & flag) !== 0;
  }

  /** Resolves when all is on its way, so that no client makes replies pile up. */
  #send(parts: readonly Buffer[]): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#stream.write(Buffer.concat(parts), (error) => {
        if (!error) resolve();
        else
          reject(new CofferdamError('CONNECTION_LOST', 'the client closed the connection', { cause: error }));
      });
    });
  }
}

function onlyOne(exports: readonly NbdExport[]): NbdExport | undefined {
  return exports.length === 1 ? exports[0] : undefined;
}
