import type { Clock } from '#src/runtime/clock';

/** A clock that moves only when a test moves it. */
export class ManualClock implements Clock {
  #nowMs = 0;
  readonly #timers = new Map<object, { dueMs: number; action: () => void }>();

  nowMs(): number {
    return this.#nowMs;
  }

  setTimer(delayMs: number, action: () => void): Disposable {
    const timer: Disposable = { [Symbol.dispose]: () => void this.#timers.delete(timer) };
    this.#timers.set(timer, { dueMs: this.#nowMs + delayMs, action });
    return timer;
  }

  /** Moves time on, running the timers that fall due in their order, and lets what they wake run. */
  async advance(ms: number): Promise<void> {
    const endMs = this.#nowMs + ms;
    for (;;) {
      await turns();
      const due = [...this.#timers].filter(([, timer]) => timer.dueMs <= endMs);
      const next = due.sort(([, a], [, b]) => a.dueMs - b.dueMs)[0];
      if (!next) break;
      this.#timers.delete(next[0]);
      this.#nowMs = next[1].dueMs;
      next[1].action();
    }
    this.#nowMs = endMs;
    await turns();
  }

  get timers(): number {
    return this.#timers.size;
  }
}

/** Lets everything that can run without time passing run. */
export async function turns(): Promise<void> {
  for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
}

/** Whether a promise has settled by now. */
export async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  const mark = (): void => void (settled = true);
  promise.then(mark, mark);
  await turns();
  return settled;
}
