import { CofferdamError } from '../runtime/errors.js';

/** What an aborted signal means to the caller: our own error if it was aborted with one, else CANCELLED. */
export function cancellation(signal: AbortSignal): CofferdamError {
  const reason: unknown = signal.reason;
  if (reason instanceof CofferdamError) return reason;
  return new CofferdamError('CANCELLED', 'cancelled before it was done', {
    cause: reason,
  });
}

/** @throws CofferdamError CANCELLED, or the signal's reason when that is a CofferdamError. */
export function throwIfCancelled(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw cancellation(signal);
}

/**
 * A word in shared memory that turns 1 when `signal` aborts, for jobs on worker threads, which cannot see signals.
 */
export class CancelWord implements Disposable {
  readonly word = new Int32Array(new SharedArrayBuffer(4));
  readonly #signal: AbortSignal | undefined;
  readonly #onAbort = (): void => void Atomics.store(this.word, 0, 1);

  constructor(signal: AbortSignal | undefined) {
    this.#signal = signal;
    if (signal?.aborted) this.#onAbort();
    else signal?.addEventListener('abort', this.#onAbort, { once: true });
  }

  [Symbol.dispose](): void {
    this.#signal?.removeEventListener('abort', this.#onAbort);
  }
}
