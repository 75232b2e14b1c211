import { Duplex } from 'node:stream';

/** The server's end of a connection in memory: what a test feeds it comes in, and what it answers is kept. */
export class Pipe extends Duplex {
  readonly #answers: Buffer[] = [];

  constructor() {
    super({ allowHalfOpen: true });
  }

  /** All that was answered so far. */
  get answers(): Buffer {
    return Buffer.concat(this.#answers);
  }

  /** Lets bytes arrive as one packet. */
  feed(bytes: Uint8Array): void {
    if (!this.destroyed) this.push(bytes);
  }

  /** Lets the client send no more. */
  feedEnd(): void {
    if (!this.destroyed) this.push(null);
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.#answers.push(Buffer.from(chunk));
    done();
  }
}
