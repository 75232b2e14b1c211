/**
 * Time as the cut protocol sees it. Everything that takes part in the protocol asks an injected clock, never the
 * system, so that the same code runs on simulated time.
 */
export interface Clock {
  /** Milliseconds on a clock that never steps back. Only differences mean anything. */
  nowMs(): number;
  /** Calls `action` once, `delayMs` from now, unless the timer is disposed of first. */
  setTimer(delayMs: number, action: () => void): Disposable;
}

const LONGEST_TIMEOUT_MS = 2 ** 31 - 1;

export const realClock: Clock = {
  nowMs: () => performance.now(),
  setTimer(delayMs, action) {
    // Node fires a timer that is too long for 32 bits at once, so a long delay is waited for in parts.
    const part = Math.min(delayMs, LONGEST_TIMEOUT_MS);
    const next = (): void => {
      if (delayMs > part) rest = realClock.setTimer(delayMs - part, action);
      else action();
    };
    let rest: Disposable | undefined;
    const timer = setTimeout(next, part);
    return {
      [Symbol.dispose]: () => {
        clearTimeout(timer);
        rest?.[Symbol.dispose]();
      },
    };
  },
};

/** Resolves after `delayMs`; rejects with the signal's reason as soon as `signal` aborts. */
export function sleep(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason as Error);
    const onAbort = (): void => {
      timer[Symbol.dispose]();
      reject(signal?.reason as Error);
    };
    const timer = clock.setTimer(delayMs, () => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    });
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}
