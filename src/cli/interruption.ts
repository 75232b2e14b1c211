import { constants } from 'node:os';

/**
 * Whatever asks the program to stop early: SIGINT, SIGTERM, or that nobody reads its stdout any more. The first cancels
 * the work, which then ends cleanly; a second signal ends the program at once.
 */
export class Interruption {
  readonly #controller = new AbortController();
  #by: 'SIGINT' | 'SIGTERM' | 'SIGPIPE' | undefined;
  #isOrderly = false;

  constructor() {
    for (const name of ['SIGINT', 'SIGTERM'] as const) {
      process.on(name, () => {
        if (this.#by === 'SIGINT' || this.#by === 'SIGTERM') process.exit(exitCodeOf(name));
        this.stop(name);
      });
    }
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** What asked to stop first, if anything did. */
  get by(): 'SIGINT' | 'SIGTERM' | 'SIGPIPE' | undefined {
    return this.#by;
  }

  /**
   * What a shell reports for a program that the signal ended; undefined if nothing asked to stop, or if that was the
   * orderly end of the work and cut nothing short.
   */
  get exitCode(): number | undefined {
    return this.#by && !this.#isOrderly ? exitCodeOf(this.#by) : undefined;
  }

  /** From now on the work ends because it is asked to stop: whatever fails then is a failure, not a cancellation. */
  expect(): void {
    this.#isOrderly = true;
  }

  stop(by: 'SIGINT' | 'SIGTERM' | 'SIGPIPE'): void {
    this.#by = by;
    this.#controller.abort();
  }
}

function exitCodeOf(name: 'SIGINT' | 'SIGTERM' | 'SIGPIPE'): number {
  return 128 + constants.signals[name];
}
