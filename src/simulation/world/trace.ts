import { createHash } from 'node:crypto';
import type { Clock } from '../../runtime/clock.js';

/** How many lines are kept for people; all of them count in the hash. */
const KEPT_LINES = 5000;

/** What happened in a simulated run. Two runs with the same hash went the same way. */
export class Trace {
  readonly #time: Clock;
  readonly #hash = createHash('sha256');
  #lines: string[] = [];

  constructor(time: Clock) {
    this.#time = time;
  }

  /** Something worth reading. */
  tell(who: string, what: string): void {
    const line = `${this.#time.nowMs().toFixed(3).padStart(12)}  ${who.padEnd(10)} ${what}`;
    this.#hash.update(line);
    this.#lines.push(line);
    if (this.#lines.length > 2 * KEPT_LINES) this.#lines = this.#lines.slice(-KEPT_LINES);
  }

  /** Something too frequent to be read. */
  count(what: string): void {
    this.#hash.update(`${this.#time.nowMs()} ${what}`);
  }

  /** The last lines, oldest first. */
  get lines(): readonly string[] {
    return this.#lines.slice(-KEPT_LINES);
  }

  /** Of all that happened, in hexadecimal. The trace ends with it. */
  end(): string {
    return this.#hash.digest('hex').slice(0, 32);
  }
}
