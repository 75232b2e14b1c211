import type { Duplex } from 'node:stream';

/** Up to this many bytes, replies are put together into one buffer rather than handed over one by one. */
const GATHER_BYTES = 64 * 1024;

/**
 * Replies on their way to a client. Those that become ready in the same turn of the event loop leave in one write.
 *
 * Invariant: for every reply that was added, `onGone` is told its charge exactly once: when it has left the process, or
 * when it is known that it never will.
 */
export class Outbox {
  readonly #stream: Duplex;
  readonly #onGone: (chargedBytes: number) => void;
  #parts: Buffer[] = [];
  #partsBytes = 0;
  #chargedBytes = 0;
  #releases: (() => void)[] = [];
  #isScheduled = false;

  /** @param onGone told of the charges of replies that no longer take memory, in bytes. */
  constructor(stream: Duplex, onGone: (chargedBytes: number) => void) {
    this.#stream = stream;
    this.#onGone = onGone;
  }

  /**
   * @param chargedBytes what the request and its reply were charged for.
   * @param release called when the bytes of `parts` may be used again.
   */
  add(parts: readonly Buffer[], chargedBytes: number, release?: () => void): void {
    for (const part of parts) {
      this.#parts.push(part);
      this.#partsBytes += part.length;
    }
    this.#chargedBytes += chargedBytes;
    if (release) this.#releases.push(release);
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      this.flush();
    });
  }

  /** Sends what was added so far at once. */
  flush(): void {
    if (this.#chargedBytes === 0) return;
    const parts = this.#gathered();
    const chargedBytes = this.#chargedBytes;
    const releases = this.#releases;
    this.#parts = [];
    this.#partsBytes = 0;
    this.#chargedBytes = 0;
    this.#releases = [];
    const gone = (): void => {
      for (const release of releases) release();
      this.#onGone(chargedBytes);
    };
    if (!this.#stream.writable) {
      gone();
      return;
    }
    if (parts.length > 1) this.#stream.cork();
    for (const [index, part] of parts.entries()) {
      // Whether it failed does not matter here: the stream is closed then.
      if (index === parts.length - 1) this.#stream.write(part, gone);
      else this.#stream.write(part);
    }
    if (parts.length > 1) this.#stream.uncork();
  }

  #gathered(): Buffer[] {
    if (this.#parts.length < 2 || this.#partsBytes > GATHER_BYTES) return this.#parts;
    return [Buffer.concat(this.#parts, this.#partsBytes)];
  }
}
