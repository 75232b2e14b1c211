import { once } from 'node:events';
import net from 'node:net';
import type { Duplex } from 'node:stream';
import type { ExportTable, NbdExport } from '#src/nbd/server/exports';
import { Length, OPTION_MAGIC, OPTION_REPLY_MAGIC, OptionReply } from '#src/nbd/protocol';
import { readExactly } from '#src/nbd/read-exactly';
import { NbdServer, type NbdServerOptions } from '#src/nbd/server/server';
import type { NbdAddress } from '#src/nbd/uri';
import { temporaryDirectory } from '../support/directory.js';

export interface OptionAnswer {
  option: number;
  type: number;
  data: Buffer;
}

/** The client's side of a handshake, byte by byte. */
export class Haggler implements Disposable {
  /** Replaced by whoever upgrades to TLS. */
  stream: Duplex;

  private constructor(readonly socket: net.Socket) {
    this.stream = socket;
    socket.on('error', () => {});
  }

  /** Connects and does nothing more. */
  static async connect(address: NbdAddress): Promise<Haggler> {
    const socket = net.connect(
      address.kind === 'unix' ? { path: address.path } : { host: address.host, port: address.port },
    );
    const haggler = new Haggler(socket);
    await once(socket, 'connect');
    return haggler;
  }

  /** Connects, reads the greeting and answers it. By default as a client of today. */
  static async greet(address: NbdAddress, clientFlags = 3): Promise<Haggler> {
    const haggler = await Haggler.connect(address);
    await readExactly(haggler.stream, Length.Greeting);
    haggler.stream.write(uint32(clientFlags));
    return haggler;
  }

  send(option: number, data: Uint8Array = Buffer.alloc(0)): void {
    this.stream.write(encodeOption(option, data));
  }

  /** Sends an option and returns all that is answered, up to and with the final reply. */
  async ask(option: number, data?: Uint8Array): Promise<OptionAnswer[]> {
    this.send(option, data);
    return await this.answers(option);
  }

  /** The type of the final reply to an option. */
  async verdict(option: number, data?: Uint8Array): Promise<number | undefined> {
    return (await this.ask(option, data)).at(-1)?.type;
  }

  async answers(option: number): Promise<OptionAnswer[]> {
    const answers: OptionAnswer[] = [];
    for (;;) {
      const answer = await this.answer();
      if (answer.option !== option) throw new Error(`option ${answer.option} was answered, not ${option}`);
      answers.push(answer);
      if (answer.type === OptionReply.Ack || answer.type >= 2 ** 31) return answers;
    }
  }

  async answer(): Promise<OptionAnswer> {
    const header = await readExactly(this.stream, Length.OptionReplyHeader);
    if (header.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC)
      throw new Error(`${header.toString('hex')} is no reply`);
    return {
      option: header.readUInt32BE(8),
      type: header.readUInt32BE(12),
      data: await readExactly(this.stream, header.readUInt32BE(16)),
    };
  }

  read(lengthBytes: number): Promise<Buffer> {
    return readExactly(this.stream, lengthBytes);
  }

  /** All that comes before the server closes the connection. */
  async rest(): Promise<Buffer> {
    const pieces: Buffer[] = [];
    this.stream.on('data', (piece: Buffer) => pieces.push(piece));
    this.stream.resume();
    if (!this.stream.readableEnded && !this.stream.destroyed) {
      await Promise.race([once(this.stream, 'end'), once(this.stream, 'close')]);
    }
    return Buffer.concat(pieces);
  }

  [Symbol.dispose](): void {
    this.stream.destroy();
    this.socket.destroy();
  }
}

export function encodeOption(option: number, data: Uint8Array = Buffer.alloc(0)): Buffer {
  const header = Buffer.alloc(Length.OptionHeader);
  header.writeBigUInt64BE(OPTION_MAGIC, 0);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(data.length, 12);
  return Buffer.concat([header, data]);
}

/** The data of INFO and GO. */
export function encodeInfo(name: string, ...wanted: number[]): Buffer {
  return Buffer.concat([encodeString(name), uint16(wanted.length), ...wanted.map(uint16)]);
}

/** The data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export function encodeQueries(name: string, ...queries: string[]): Buffer {
  return Buffer.concat([encodeString(name), uint32(queries.length), ...queries.map(encodeString)]);
}

export function encodeString(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([uint32(bytes.length), bytes]);
}

export function uint16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/** Size and flags, from the answer to INFO or GO. */
export function exportInfo(answers: readonly OptionAnswer[]): { size: bigint; flags: number } {
  const info = answers.find(({ type, data }) => type === OptionReply.Info && data.readUInt16BE() === 0);
  if (!info) throw new Error('no NBD_INFO_EXPORT was sent');
  return { size: info.data.readBigUInt64BE(2), flags: info.data.readUInt16BE(10) };
}

/** The contexts in an answer, by name. */
export function contextIds(answers: readonly OptionAnswer[]): Record<string, number> {
  const contexts = answers.filter(({ type }) => type === OptionReply.MetaContext);
  return Object.fromEntries(
    contexts.map(({ data }) => [data.subarray(4).toString(), data.readUInt32BE()] as const),
  );
}

/** A table whose exports do not change. */
export function tableOf(exports: readonly NbdExport[]): ExportTable {
  return { list: () => exports, find: (name) => exports.find((each) => each.name === name) };
}

export interface Served extends AsyncDisposable {
  server: NbdServer;
  address: NbdAddress;
  /** A client that is past the greeting. */
  client(clientFlags?: number): Promise<Haggler>;
}

/** A server at a Unix socket of its own. */
export async function serve(
  exports: readonly NbdExport[] | ExportTable,
  options: Omit<NbdServerOptions, 'exports' | 'listen'> = {},
): Promise<Served> {
  const directory = temporaryDirectory();
  const server = await NbdServer.listen({
    exports: 'list' in exports ? exports : tableOf(exports),
    listen: { kind: 'unix', path: directory.file('socket') },
    ...options,
  });
  return {
    server,
    address: server.address,
    client: (clientFlags) => Haggler.greet(server.address, clientFlags),
    [Symbol.asyncDispose]: async () => {
      server.disconnect();
      await server.close();
      await directory[Symbol.asyncDispose]();
    },
  };
}
