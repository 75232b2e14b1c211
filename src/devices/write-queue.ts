import type { Batch } from '../core/core.js';
import { MiB } from '../runtime/sizes.js';

/** Writes that wait are handed over together up to this many bytes, so that the first need not wait long for the last. */
const TOGETHER_BYTES = MiB;

interface Waiting {
  batches: readonly Batch[];
  bytes: number;
  resolve: () => void;
  reject: (error: unknown) => void;
}

/**
 * The writes to one open file, one call at a time: a file system lets one write into a file at a time, and threads that
 * wait for each other there burn the processor. What arrives meanwhile is handed over together in the next call.
 *
 * Invariants:
 * 1. At most one call runs. Writes are handed over in the order in which they came.
 * 2. A write fails only by itself: when a call for several fails, each is repeated alone.
 */
export class WriteQueue {
  readonly #write: (batches: readonly Batch[]) => Promise<void>;
  readonly #waiting: Waiting[] = [];
  #isRunning = false;

  /** @param write makes all the writes of some batches; if it fails, any of them may have been made. */
  constructor(write: (batches: readonly Batch[]) => Promise<void>) {
    this.#write = write;
  }

  /** Writes that succeed or fail as one. */
  add(batches: readonly Batch[]): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ batches, bytes: bytesOf(batches), resolve, reject });
      if (!this.#isRunning) void this.#run();
    });
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    while (this.#waiting.length > 0)
      await this.#writeTogether(this.#waiting.splice(0, this.#countTogether()));
    this.#isRunning = false;
  }

  async #writeTogether(together: readonly Waiting[]): Promise<void> {
    try {
      await this.#write(together.flatMap(({ batches }) => batches));
      for (const { resolve } of together) resolve();
    } catch (error) {
      const [only, ...others] = together;
      if (others.length === 0) only?.reject(error);
      else for (const each of together) await this.#writeTogether([each]);
    }
  }

  #countTogether(): number {
    let count = 0;
    let bytes = 0;
    for (const waiting of this.#waiting) {
      bytes += waiting.bytes;
      if (count > 0 && bytes > TOGETHER_BYTES) break;
      count++;
    }
    return count;
  }
}

function bytesOf(batches: readonly Batch[]): number {
  let bytes = 0;
  for (const { places } of batches) for (let i = 2; i < places.length; i += 3) bytes += places[i] ?? 0;
  return bytes;
}
