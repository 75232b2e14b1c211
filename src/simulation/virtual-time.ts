import type { Clock } from '../runtime/clock.js';
import { CofferdamError, invariant } from '../runtime/errors.js';

/** So many turns of the event loop without an event mean that nothing will happen any more. */
const IDLE_TURNS = 100;

/**
 * Time that passes only when nothing is left to do at the present instant.
 *
 * Invariants:
 * 1. Events happen in the order of their times, those of one time in the order in which they were asked for.
 * 2. Before an event happens, everything that the one before it caused without waiting has happened.
 *
 * So whatever uses no other clock, no other randomness and no real I/O runs the same way every time.
 */
export class VirtualTime implements Clock {
  readonly #queue = new EventQueue();
  #nowMs = 0;
  #events = 0;

  nowMs(): number {
    return this.#nowMs;
  }

  /** How many events have happened. */
  get events(): number {
    return this.#events;
  }

  setTimer(delayMs: number, action: () => void): Disposable {
    invariant(delayMs >= 0, `a timer of ${delayMs} ms`);
    const event: Event = { atMs: this.#nowMs + delayMs, order: 0, action };
    this.#queue.push(event);
    return { [Symbol.dispose]: () => this.#queue.drop(event) };
  }

  /**
   * Lets time pass until `end` has settled, and answers as it does.
   *
   * @param limitEvents fails the run when more happen: it does not come to an end.
   * @throws CofferdamError SIMULATION_FAILED if nothing is left that could happen, or too much does, before `end` has settled.
   */
  async run<T>(end: Promise<T>, limitEvents = Infinity): Promise<T> {
    let hasEnded = false;
    const mark = (): void => void (hasEnded = true);
    end.then(mark, mark);
    const stopAt = this.#events + limitEvents;
    for (let idleTurns = 0; ;) {
      await everythingDone();
      if (hasEnded) return await end;
      const event = this.#queue.pop();
      // Whoever lets the event loop take a turn before it goes on is not waiting for time to pass.
      if (!event && ++idleTurns < IDLE_TURNS) continue;
      if (!event)
        throw new CofferdamError(
          'SIMULATION_FAILED',
          `nothing is left to happen at ${this.#nowMs} ms, yet not all has ended`,
        );
      if (this.#events >= stopAt)
        throw new CofferdamError('SIMULATION_FAILED', `${limitEvents} events, and no end`);
      idleTurns = 0;
      this.#nowMs = event.atMs;
      this.#events++;
      const { action } = event;
      // It has happened: to dispose of it is too late.
      event.action = undefined;
      action?.();
    }
  }
}

/** The clock of a machine that runs a little fast or slow. */
export class DriftingClock implements Clock {
  readonly #time: Clock;
  #rate: number;
  /** When it began to run at this rate: in true time, and in its own. */
  #since = { trueMs: 0, ownMs: 0 };

  /** @param rate how many of its milliseconds pass in a true one. */
  constructor(time: Clock, rate: number) {
    this.#time = time;
    this.#rate = rate;
  }

  nowMs(): number {
    const { trueMs, ownMs } = this.#since;
    return ownMs + (this.#time.nowMs() - trueMs) * this.#rate;
  }

  /** From now on it runs as it should, but for timers that are set already. */
  runTrue(): void {
    this.#since = { trueMs: this.#time.nowMs(), ownMs: this.nowMs() };
    this.#rate = 1;
  }

  setTimer(delayMs: number, action: () => void): Disposable {
    return this.#time.setTimer(delayMs / this.#rate, action);
  }
}

/** Resolves when no promise can go on: they all do before an immediate callback is called. */
function everythingDone(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

interface Event {
  atMs: number;
  order: number;
  /** Undefined once the timer was disposed of. */
  action: (() => void) | undefined;
}

/** Dropped events are cleared away when there are more than this many, and more of them than of the others. */
const KEPT_DROPPED = 1000;

/** A binary heap of events, the earliest on top. */
class EventQueue {
  #heap: Event[] = [];
  #pushed = 0;
  /** How many in the heap were dropped. */
  #dropped = 0;

  push(event: Event): void {
    event.order = this.#pushed++;
    this.#sift(event);
  }

  /** Leases are renewed over and over: what is dropped must not stay until its time would have come. */
  drop(event: Event): void {
    if (!event.action) return;
    event.action = undefined;
    if (++this.#dropped <= Math.max(KEPT_DROPPED, this.#heap.length / 2)) return;
    const kept = this.#heap.filter(({ action }) => action);
    this.#heap = [];
    this.#dropped = 0;
    for (const one of kept) this.#sift(one);
  }

  #sift(event: Event): void {
    let at = this.#heap.push(event) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#isBefore(at, parent)) return;
      this.#swap(at, parent);
      at = parent;
    }
  }

  /** The earliest event that was not dropped. */
  pop(): Event | undefined {
    for (;;) {
      const event = this.#popAny();
      if (!event || event.action) return event;
      this.#dropped--;
    }
  }

  #popAny(): Event | undefined {
    const top = this.#heap[0];
    const last = this.#heap.pop();
    if (last === undefined || top === undefined || last === top) return top;
    this.#heap[0] = last;
    for (let at = 0; ;) {
      let least = at;
      for (const child of [2 * at + 1, 2 * at + 2]) {
        if (child < this.#heap.length && this.#isBefore(child, least)) least = child;
      }
      if (least === at) return top;
      this.#swap(at, least);
      at = least;
    }
  }

  #isBefore(a: number, b: number): boolean {
    const [one, other] = [this.#at(a), this.#at(b)];
    return one.atMs < other.atMs || (one.atMs === other.atMs && one.order < other.order);
  }

  #swap(a: number, b: number): void {
    const one = this.#at(a);
    this.#heap[a] = this.#at(b);
    this.#heap[b] = one;
  }

  #at(index: number): Event {
    const event = this.#heap[index];
    invariant(event !== undefined, 'an index within the heap');
    return event;
  }
}
