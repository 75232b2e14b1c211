import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import net from 'node:net';
import type { Duplex } from 'node:stream';
import { loadCore } from '#src/core/load';
import type { BlockDevice, NativePath } from '#src/devices/block-device';
import { baseAllocation } from '#src/nbd/server/block-status';
import type { MetaContext } from '#src/nbd/server/exports';
import {
  ChunkFlag,
  ChunkType,
  Length,
  REQUEST_MAGIC,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from '#src/nbd/protocol';
import { readExactly } from '#src/nbd/read-exactly';
import { NativeStream } from '#src/nbd/server/native-stream';
import { Transmission } from '#src/nbd/server/transmission';
import { temporaryDirectory } from '../support/directory.js';

export interface WireRequest {
  command: number;
  flags?: number;
  cookie?: bigint;
  offset?: bigint | number;
  length?: number;
  payload?: Uint8Array;
  magic?: number;
}

/** A request as bytes. What is not given is 0, and the length that of the payload. */
export function encodeRequest(request: WireRequest): Buffer {
  const { command, flags = 0, cookie = 0n, offset = 0, payload = new Uint8Array(), magic } = request;
  const header = Buffer.alloc(Length.RequestHeader);
  header.writeUInt32BE(magic ?? REQUEST_MAGIC, 0);
  header.writeUInt16BE(flags, 4);
  header.writeUInt16BE(command, 6);
  header.writeBigUInt64BE(cookie, 8);
  header.writeBigUInt64BE(BigInt(offset), 16);
  header.writeUInt32BE(request.length ?? payload.length, 24);
  return Buffer.concat([header, payload]);
}

/** A reply, or one chunk of a structured one. */
export interface WireReply {
  cookie: bigint;
  /** 0: it succeeded. */
  errno: number;
  /** Whether it is the last chunk. A simple reply always is. */
  done: boolean;
  /** Of a chunk; undefined for a simple reply. */
  type?: number;
  payload: Buffer;
}

/** What a whole structured reply to a read amounts to. */
export interface WireRead {
  errno: number;
  bytes: Buffer;
  holes: { offset: number; length: number }[];
  chunks: number;
}

function sharedWords(...values: number[]): Int32Array<SharedArrayBuffer> {
  const words = new Int32Array(new SharedArrayBuffer(4 * values.length));
  words.set(values);
  return words;
}

/** A way past JavaScript that nothing can take, so that a native thread hands everything over. */
function noWay(fd: number): NativePath {
  return { fd, gate: sharedWords(1, 0, 1, 0), left: () => {} };
}

/** The client's end of a connection whose handshake is over, byte by byte. */
export class Wire implements AsyncDisposable {
  /** Whether a native thread serves the connections that are made from now on. */
  static path: 'javascript' | 'native' = 'javascript';
  readonly transmission: Transmission;
  /** Settles when the server's end is done with the connection. */
  readonly ended: Promise<void>;
  #isEnded = false;

  private constructor(
    readonly stream: net.Socket,
    serverEnd: Duplex,
    readonly structured: boolean,
    device: BlockDevice,
    contexts: ReadonlyMap<number, MetaContext>,
    private readonly cleanUp: () => Promise<void>,
  ) {
    this.transmission = new Transmission({
      stream: serverEnd,
      export: { name: '', device },
      structuredReplies: structured,
      contexts,
    });
    this.ended = this.#run();
  }

  get isEnded(): boolean {
    return this.#isEnded;
  }

  async #run(): Promise<void> {
    await this.transmission.run();
    this.#isEnded = true;
  }

  static async connect(
    device: BlockDevice,
    options: { structured?: boolean; contexts?: readonly MetaContext[] } = {},
  ): Promise<Wire> {
    const directory = temporaryDirectory();
    const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true });
    server.listen(directory.file('socket'));
    await once(server, 'listening');
    const client = net.connect(directory.file('socket'));
    client.on('error', () => {});
    const [serverEnd] = (await once(server, 'connection')) as [net.Socket];
    const contexts = options.contexts ?? [baseAllocation(device)];
    const structured = options.structured ?? true;
    const fd = openSync('/dev/null', 'r');
    return new Wire(
      client,
      Wire.path === 'native' ? await taken(serverEnd, device, structured, fd) : serverEnd,
      structured,
      device,
      new Map(contexts.map((context, i) => [i + 7, context])),
      async () => {
        client.destroy();
        serverEnd.destroy();
        server.close();
        closeSync(fd);
        await directory[Symbol.asyncDispose]();
      },
    );
  }

  send(...requests: WireRequest[]): void {
    this.stream.write(Buffer.concat(requests.map(encodeRequest)));
  }

  /** The next reply or chunk. Simple replies carry data only for reads: say how much is expected. */
  async reply(simpleDataBytes = 0): Promise<WireReply> {
    const magic = (await readExactly(this.stream, 4)).readUInt32BE();
    if (magic === SIMPLE_REPLY_MAGIC) {
      const rest = await readExactly(this.stream, Length.SimpleReply - 4);
      const errno = rest.readUInt32BE(0);
      const payload = await readExactly(this.stream, errno === 0 ? simpleDataBytes : 0);
      return { cookie: rest.readBigUInt64BE(4), errno, done: true, payload };
    }
    if (magic !== STRUCTURED_REPLY_MAGIC) throw new Error(`0x${magic.toString(16)} is no reply`);
    const rest = await readExactly(this.stream, Length.ChunkHeader - 4);
    const type = rest.readUInt16BE(2);
    const payload = await readExactly(this.stream, rest.readUInt32BE(12));
    return {
      cookie: rest.readBigUInt64BE(4),
      errno: type === ChunkType.Error || type === ChunkType.ErrorOffset ? payload.readUInt32BE() : 0,
      done: (rest.readUInt16BE(0) & ChunkFlag.Done) !== 0,
      type,
      payload,
    };
  }

  /** The whole of a structured reply to a read of this range. */
  async readReply(offset: number, length: number): Promise<WireRead> {
    const result: WireRead = { errno: 0, bytes: Buffer.alloc(length, 0xee), holes: [], chunks: 0 };
    let coveredBytes = 0;
    for (let done = false; !done;) {
      const chunk = await this.reply();
      ({ done } = chunk);
      if (chunk.errno !== 0) result.errno = chunk.errno;
      if (chunk.errno !== 0 || chunk.type === ChunkType.None) continue;
      result.chunks++;
      const at = Number(chunk.payload.readBigUInt64BE(0));
      if (chunk.type === ChunkType.OffsetHole) {
        const hole = chunk.payload.readUInt32BE(8);
        result.holes.push({ offset: at, length: hole });
        result.bytes.fill(0, at - offset, at - offset + hole);
        coveredBytes += hole;
      } else {
        chunk.payload.copy(result.bytes, at - offset, 8);
        coveredBytes += chunk.payload.length - 8;
      }
    }
    if (result.errno === 0 && coveredBytes !== length) throw new Error(`${coveredBytes} of ${length} bytes`);
    return result;
  }

  /** Whether the server closed its end. */
  async closed(): Promise<void> {
    this.stream.resume();
    if (this.stream.readableEnded || this.stream.destroyed) return;
    await new Promise((resolve) => {
      this.stream.once('end', resolve);
      // It may have been reset.
      this.stream.once('close', resolve);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.cleanUp();
    await this.ended;
  }
}

/** The connection as it is left when a native thread serves it. */
async function taken(
  socket: net.Socket,
  device: BlockDevice,
  structuredReplies: boolean,
  fd: number,
): Promise<Duplex> {
  const { serveConnection: serve } = await loadCore();
  if (!serve) throw new Error('the core has no threads for connections');
  const stream = NativeStream.takeOver(socket, {
    serve,
    path: device.nativePath ?? noWay(fd),
    sizeBytes: device.sizeBytes,
    readOnly: device.capabilities.readOnly,
    structuredReplies,
  });
  if (!(stream instanceof NativeStream)) throw new Error('the connection was not taken over');
  return stream;
}
