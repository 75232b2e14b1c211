import { once } from 'node:events';
import net from 'node:net';
import {
  BASE_ALLOCATION,
  ChunkFlag,
  Command,
  InfoType,
  Length,
  Option,
  OPTION_MAGIC,
  OPTION_REPLY_MAGIC,
  OptionReply,
  SERVER_MAGIC,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
  TransmissionFlag,
} from '#src/nbd/protocol';
import { readExactly } from '#src/nbd/read-exactly';
import { temporaryDirectory } from '../support/directory.js';

/** A request as the server got it. */
export interface Asked {
  command: number;
  flags: number;
  cookie: bigint;
  offset: number;
  length: number;
  payload: Buffer;
  /** Which connection it came over, counted from 0. */
  connection: number;
  /** How many bytes had come behind it by then. */
  behindBytes: number;
}

/** What an export says of itself. Nothing given: 1 MiB that can do everything, with structured replies. */
export interface Script {
  sizeBytes?: bigint | number;
  flags?: number;
  /** Minimum, preferred, maximum; none by default. */
  blockSizes?: [number, number, number];
  structured?: boolean;
  /** Answers GO as a server that has never heard of it. */
  knowsNoGo?: boolean;
  /** Sent in place of the greeting. */
  greeting?: Buffer;
  /** Sent in place of the replies to an option. Undefined: the right ones. */
  answerOption?: (option: number, data: Buffer) => Buffer | undefined;
  /** The reply to a request; undefined: none for now. By default everything succeeds, and reads as zeros. */
  answer?: (asked: Asked, server: ScriptedServer) => Buffer | undefined;
}

export const everything =
  TransmissionFlag.HasFlags |
  TransmissionFlag.SendFlush |
  TransmissionFlag.SendFua |
  TransmissionFlag.SendTrim |
  TransmissionFlag.SendWriteZeroes;

/** The number of `base:allocation` on every connection. */
export const CONTEXT = 7;

/** An NBD server that says what a test wants it to say, right or wrong. */
export class ScriptedServer implements AsyncDisposable {
  script: Script;
  /** Everything that was asked for after the handshake, in order. */
  readonly asked: Asked[] = [];
  /** How many connections were accepted. */
  accepted = 0;
  readonly #sockets = new Set<net.Socket>();
  readonly #directory = temporaryDirectory();
  readonly #path = this.#directory.file('nbd.sock');
  #listener: net.Server | undefined;

  private constructor(script: Script) {
    this.script = script;
  }

  static async start(script: Script = {}): Promise<ScriptedServer> {
    const server = new ScriptedServer(script);
    await server.listen();
    return server;
  }

  get uri(): string {
    return `nbd+unix:///disk?socket=${this.#path}`;
  }

  get connections(): number {
    return this.#sockets.size;
  }

  async listen(): Promise<void> {
    this.#listener = net.createServer((socket) => this.#accept(socket));
    this.#listener.listen(this.#path);
    await once(this.#listener, 'listening');
  }

  /** Drops all connections and takes no more, as if it had died. */
  async die(): Promise<void> {
    const listener = this.#listener;
    this.#listener = undefined;
    this.drop();
    if (!listener) return;
    listener.close();
    await once(listener, 'close');
  }

  /** Drops the connections, or one of them. */
  drop(connection?: number): void {
    [...this.#sockets].forEach((socket, index) => {
      if (connection === undefined || connection === index) socket.destroy();
    });
  }

  /** Sends bytes over the only connection. */
  say(bytes: Buffer): void {
    for (const socket of this.#sockets) socket.write(bytes);
  }

  /** Sends bytes over one connection, while none before it has ended. */
  sayTo(connection: number, bytes: Buffer): void {
    [...this.#sockets][connection]?.write(bytes);
  }

  /** How many requests of a kind came in. */
  count(command: number): number {
    return this.asked.filter((asked) => asked.command === command).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.die();
    await this.#directory[Symbol.asyncDispose]();
  }

  #accept(socket: net.Socket): void {
    const connection = this.accepted++;
    this.#sockets.add(socket);
    socket.on('close', () => this.#sockets.delete(socket));
    socket.on('error', () => {});
    // Whoever hangs up ends this conversation, and nothing else.
    this.#converse(socket, connection).catch(() => socket.destroy());
  }

  async #converse(socket: net.Socket, connection: number): Promise<void> {
    socket.write(this.script.greeting ?? Buffer.concat([u64(SERVER_MAGIC), u64(OPTION_MAGIC), u16(3)]));
    await readExactly(socket, Length.ClientFlags);
    for (;;) {
      const header = await readExactly(socket, Length.OptionHeader);
      const option = header.readUInt32BE(8);
      const data = await readExactly(socket, header.readUInt32BE(12));
      socket.write(this.script.answerOption?.(option, data) ?? this.#rightAnswer(option));
      if (option === Option.ExportName || (option === Option.Go && !this.script.knowsNoGo)) break;
    }
    for (;;) {
      const asked = await this.#request(socket, connection);
      this.asked.push(asked);
      if (asked.command === Command.Disconnect) break;
      const reply = (this.script.answer ?? success)(asked, this);
      if (reply) socket.write(reply);
    }
    socket.end();
  }

  async #request(socket: net.Socket, connection: number): Promise<Asked> {
    const header = await readExactly(socket, Length.RequestHeader);
    const command = header.readUInt16BE(6);
    const length = header.readUInt32BE(24);
    return {
      command,
      flags: header.readUInt16BE(4),
      cookie: header.readBigUInt64BE(8),
      offset: Number(header.readBigUInt64BE(16)),
      length,
      payload: await readExactly(socket, command === Command.Write ? length : 0),
      connection,
      behindBytes: socket.readableLength,
    };
  }

  #rightAnswer(option: number): Buffer {
    const { sizeBytes = 2 ** 20, flags = everything, blockSizes, structured = true } = this.script;
    const ack = optionReply(option, OptionReply.Ack);
    switch (option) {
      case Option.StructuredReply:
        return structured ? ack : optionReply(option, OptionReply.ErrUnsupported);
      case Option.SetMetaContext: {
        const context = Buffer.concat([u32(CONTEXT), Buffer.from(BASE_ALLOCATION)]);
        return Buffer.concat([optionReply(option, OptionReply.MetaContext, context), ack]);
      }
      case Option.Go: {
        if (this.script.knowsNoGo) return optionReply(option, OptionReply.ErrUnsupported);
        const infos = [Buffer.concat([u16(InfoType.Export), u64(BigInt(sizeBytes)), u16(flags)])];
        if (blockSizes) infos.push(Buffer.concat([u16(InfoType.BlockSize), ...blockSizes.map(u32)]));
        return Buffer.concat([...infos.map((info) => optionReply(option, OptionReply.Info, info)), ack]);
      }
      case Option.ExportName:
        return Buffer.concat([u64(BigInt(sizeBytes)), u16(flags)]);
      default:
        return optionReply(option, OptionReply.ErrUnsupported);
    }
  }
}

/** Does nothing and says that it was done. */
export function success(asked: Asked): Buffer {
  if (asked.command === Command.Read) {
    return chunk(asked, 1, Buffer.concat([u64(BigInt(asked.offset)), Buffer.alloc(asked.length)]));
  }
  if (asked.command === Command.BlockStatus) return chunk(asked, 5, u32(CONTEXT), u32(asked.length), u32(0));
  return chunk(asked, 0);
}

export function optionReply(option: number, type: number, data: Buffer = Buffer.alloc(0)): Buffer {
  return Buffer.concat([u64(OPTION_REPLY_MAGIC), u32(option), u32(type), u32(data.length), data]);
}

/** A simple reply; what comes with it is appended. */
export function simple(asked: Asked, errno = 0): Buffer {
  return Buffer.concat([u32(SIMPLE_REPLY_MAGIC), u32(errno), u64(asked.cookie)]);
}

/** The last chunk of a reply. */
export function chunk(asked: Asked, type: number, ...payload: Buffer[]): Buffer {
  return chunkOf(asked, type, ChunkFlag.Done, Buffer.concat(payload));
}

/** A chunk after which others come. */
export function part(asked: Asked, type: number, ...payload: Buffer[]): Buffer {
  return chunkOf(asked, type, 0, Buffer.concat(payload));
}

/** @param lengthBytes what the header says; by default the truth. */
export function chunkOf(
  asked: Pick<Asked, 'cookie'>,
  type: number,
  flags: number,
  payload: Buffer,
  lengthBytes = payload.length,
): Buffer {
  const head = [u32(STRUCTURED_REPLY_MAGIC), u16(flags), u16(type), u64(asked.cookie), u32(lengthBytes)];
  return Buffer.concat([...head, payload]);
}

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function u64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(value);
  return bytes;
}
