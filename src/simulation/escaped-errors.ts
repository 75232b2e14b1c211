/**
 * The errors that nobody catches, in this thread: thrown in a callback of the event loop, or by a promise that nobody waits
 * for. While this lives they end neither the thread nor the process. There is at most one at a time.
 */
export class EscapedErrors implements Disposable {
  /** Rejects with the first of them. */
  readonly first: Promise<never>;

  constructor() {
    this.first = new Promise((_, reject) => process.setUncaughtExceptionCaptureCallback(reject));
    // Whoever does not wait for it lets it escape no further.
    this.first.catch(() => {});
  }

  [Symbol.dispose](): void {
    process.setUncaughtExceptionCaptureCallback(null);
  }
}
