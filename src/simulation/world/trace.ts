import { createHash } from 'node:crypto';
import type { Clock } from '../../runtime/clock.js';

/** How many lines are kept for people; all of them count in the hash. */
const KEPT_LINES = 5000;

/** How many lines an excerpt has at most, and of those how many lead up to each mark and how many come after it. */
const EXCERPT_LINES = 60;
const LINES_BEFORE = 8;
const LINES_AFTER = 3;

interface Line {
  atMs: number;
  text: string;
  isMark: boolean;
}

/** What happened in a simulated run. Two runs with the same hash went the same way. */
export class Trace {
  readonly #time: Clock;
  readonly #hash = createHash('sha256');
  /** In the order of their times. */
  #lines: Line[] = [];

  constructor(time: Clock) {
    this.#time = time;
  }

  /** Something worth reading. */
  tell(who: string, what: string): void {
    this.#lines.push(this.#line(who, what, this.#time.nowMs(), false));
    if (this.#lines.length > 2 * KEPT_LINES) this.#lines = this.#lines.slice(-KEPT_LINES);
  }

  /**
   * Something that must not be missed.
   *
   * @param atMs when it happened, as it may be only later that it is known to matter.
   */
  mark(who: string, what: string, atMs = this.#time.nowMs()): void {
    const next = this.#lines.findLastIndex((line) => line.atMs <= atMs) + 1;
    this.#lines.splice(next, 0, this.#line(who, what, atMs, true));
  }

  /** Something too frequent to be read. */
  count(what: string): void {
    this.#hash.update(`${this.#time.nowMs()} ${what}`);
  }

  /** The last lines, oldest first. */
  get lines(): readonly string[] {
    return this.#lines.slice(-KEPT_LINES).map(({ text }) => text);
  }

  /** What to read first: the lines around those that are marked, or the last ones if none is. */
  get excerpt(): readonly string[] {
    const marks = this.#lines.flatMap(({ isMark }, index) => (isMark ? [index] : []));
    if (marks.length === 0) return this.lines.slice(-EXCERPT_LINES);
    const excerpt: string[] = [];
    let end = 0;
    for (const mark of marks) {
      const from = Math.max(end, mark - LINES_BEFORE);
      if (from > end) excerpt.push('...');
      end = Math.max(end, mark + LINES_AFTER + 1);
      excerpt.push(...this.#lines.slice(from, end).map(({ text }) => text));
    }
    return excerpt.length > EXCERPT_LINES ? [...excerpt.slice(0, EXCERPT_LINES), '...'] : excerpt;
  }

  /** Of all that happened, in hexadecimal. The trace ends with it. */
  end(): string {
    return this.#hash.digest('hex').slice(0, 32);
  }

  #line(who: string, what: string, atMs: number, isMark: boolean): Line {
    const text = `${formatMs(atMs).padStart(12)}  ${who.padEnd(10)} ${what}`;
    this.#hash.update(text);
    return { atMs, text, isMark };
  }
}

/** A simulated time as the trace has it. */
export function formatMs(ms: number): string {
  return ms.toFixed(3);
}
