import type { Socket } from 'node:net';
import type { Clock } from '../../runtime/clock.js';
import { chooseDataPath } from './data-path.js';
import { Handshake, type HandshakeOptions } from './handshake.js';
import { Transmission } from './transmission.js';

/** How long a client has for the handshake, and to close its side if it aborts it. */
const HANDSHAKE_MS = 10_000;

/**
 * One connection of a client, from its first byte to its last.
 *
 * Invariants:
 * 1. Whatever happens to it happens to no one else: nothing is thrown.
 * 2. It is in transmission, or its time is limited.
 */
export class Session {
  /** Resolves when the connection is closed. */
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #handshake: Handshake;
  #transmission: Transmission | undefined;

  constructor(socket: Socket, options: HandshakeOptions) {
    this.#socket = socket;
    // It is followed by `close`.
    socket.on('error', () => {});
    this.closed = new Promise((resolve) => socket.once('close', () => resolve()));
    this.#handshake = new Handshake(socket, options);
  }

  /** Undefined while the client has not chosen one. */
  get exportName(): string | undefined {
    return this.#handshake.opened?.name;
  }

  async run(clock: Clock): Promise<void> {
    const deadline = clock.setTimer(HANDSHAKE_MS, () => this.destroy());
    void this.closed.then(() => deadline[Symbol.dispose]());
    try {
      const negotiated = await this.#handshake.run();
      if (!negotiated) return;
      deadline[Symbol.dispose]();
      this.#transmission = new Transmission(await chooseDataPath(negotiated));
      await this.#transmission.run();
    } catch {
      this.destroy();
    }
  }

  /** Ends the session once what the client has asked for is done. In the handshake that is nothing. */
  drain(): void {
    if (this.#transmission) this.#transmission.drain();
    else this.destroy();
  }

  /** Closes the connection at once. */
  destroy(): void {
    if (this.#transmission) this.#transmission.destroy();
    else this.#socket.destroy();
  }
}
