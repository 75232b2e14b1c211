/**
 * Makes the writes to one open file durable.
 *
 * Invariants:
 * 1. One sync runs at a time. The kernel tells a failed write-back once per open file, so of two syncs at once one could
 *    succeed although its writes are lost.
 * 2. A sync that is asked for while one runs shares the next one, which starts after the writes it is to cover.
 * 3. After one failure every later sync fails: the kernel may have dropped the writes it could not bring to the medium,
 *    and would not mention them again.
 */
export class DataSync {
  readonly #sync: () => Promise<void>;
  #running: Promise<void> = Promise.resolve();
  #next: Promise<void> | undefined;

  constructor(sync: () => Promise<void>) {
    this.#sync = sync;
  }

  /** Resolves when every write that was finished before this call is durable. */
  run(): Promise<void> {
    // When the running one failed, so does the next, without being started.
    this.#next ??= this.#running.then(() => {
      this.#next = undefined;
      this.#running = this.#sync();
      return this.#running;
    });
    return this.#next;
  }
}
