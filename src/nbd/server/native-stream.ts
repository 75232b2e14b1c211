import { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { NativeEvent, type NativeConnection, type ServeConnection } from '../../core/core.js';
import type { NativePath } from '../../devices/block-device.js';

/** What is known of a connection when its transmission begins. */
export interface NativeStreamOptions {
  serve: ServeConnection;
  path: NativePath;
  sizeBytes: number;
  readOnly: boolean;
  structuredReplies: boolean;
}

/**
 * The connection of a client as it is left when a native thread serves it: what comes in are the requests that the thread
 * does not answer itself, what goes out are the replies to them.
 *
 * Invariants:
 * 1. Nothing is read from the socket here any more, and nothing is written to it.
 * 2. At most one call of `send` is unanswered.
 * 3. The gate's words stay until the thread has ended.
 */
export class NativeStream extends Duplex {
  readonly #socket: Socket;
  readonly #path: NativePath;
  readonly #connection: NativeConnection;
  /** What was handed over while nobody wanted more. */
  #unconsumedBytes = 0;
  #onSent: (() => void) | undefined;
  #isClosed = false;

  /** @param socket a paused one with a descriptor; it is taken over. */
  private constructor(socket: Socket, fd: number, received: Buffer, options: NativeStreamOptions) {
    super({ allowHalfOpen: true });
    const { serve, path, ...agreed } = options;
    this.#socket = socket;
    this.#path = path;
    this.#connection = serve(
      { ...agreed, socketFd: fd, deviceFd: path.fd, gate: path.gate, watch: path.watch, received },
      (event, bytes) => this.#on(event, bytes),
    );
    socket.once('close', () => this.destroy());
  }

  /** Takes a connection over, if a native thread can serve it; it answers the stream to go on with. */
  static takeOver(stream: Duplex, options: NativeStreamOptions): Duplex {
    const handle = stream instanceof Socket ? handleOf(stream) : undefined;
    if (!(stream instanceof Socket) || !handle) return stream;
    // 1. Take what was received, in one turn with
    const received = (stream.read() as Buffer | null) ?? Buffer.alloc(0);
    // 2. receiving no more.
    handle.readStop();
    try {
      return new NativeStream(stream, handle.fd, received, options);
    } catch {
      // There are too many threads or files open: it is served as any other.
      if (received.length > 0) stream.unshift(received);
      handle.readStart();
      return stream;
    }
  }

  /** No further request is begun, wherever it would be. */
  refuse(): void {
    this.#connection.refuse();
  }

  override _read(): void {
    const count = this.#unconsumedBytes;
    this.#unconsumedBytes = 0;
    if (count > 0) this.#connection.consumed(count);
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.#send([chunk], done);
  }

  override _writev(chunks: readonly { chunk: Buffer }[], done: () => void): void {
    this.#send(
      chunks.map(({ chunk }) => chunk),
      done,
    );
  }

  override _final(done: () => void): void {
    this.#onSent = done;
    this.#connection.end();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    // In this turn, so that nothing is begun that the client has sent before.
    this.#connection.cut();
    // The thread may be waiting for a medium that does not answer. Who needs to know that it is idle asks the gate.
    if (this.#isClosed) this.#connection.close();
    this.#socket.destroy();
    done(error);
  }

  #send(replies: readonly Buffer[], done: () => void): void {
    // Of nothing it would not be told that it was sent.
    if (replies.every(({ length }) => length === 0)) return done();
    this.#onSent = done;
    this.#connection.send(replies);
  }

  #on(event: number, bytes: Buffer | null): void {
    switch (event) {
      case NativeEvent.Handed:
        if (!bytes || this.destroyed) return;
        this.#unconsumedBytes += bytes.length;
        if (this.push(bytes)) this._read();
        break;
      case NativeEvent.Sent: {
        const done = this.#onSent;
        this.#onSent = undefined;
        done?.();
        break;
      }
      case NativeEvent.End:
        if (!this.destroyed) this.push(null);
        break;
      case NativeEvent.Left:
        this.#path.left();
        break;
      case NativeEvent.Closed:
        this.#isClosed = true;
        if (this.destroyed) this.#connection.close();
        else this.destroy();
        break;
    }
  }
}

/** What Node keeps its sockets by, as far as it is needed here. */
interface Handle {
  readonly fd: number;
  readStop(): void;
  readStart(): void;
}

/** Undefined where there is none, or one that is not as expected: nothing promises that there is. */
function handleOf(socket: Socket): Handle | undefined {
  const { _handle: handle } = socket as unknown as { _handle?: Partial<Handle> | null };
  const isKnown =
    typeof handle?.fd === 'number' &&
    handle.fd >= 0 &&
    typeof handle.readStop === 'function' &&
    typeof handle.readStart === 'function';
  return isKnown ? (handle as Handle) : undefined;
}
