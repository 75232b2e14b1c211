import { once } from 'node:events';
import { constants, open } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';

/** What the threads of a bare copy share. */
export interface BareCopyTask {
  sourceFd: number;
  targetFd: number;
  sizeBytes: number;
  /** One word: the next byte that nobody copies. */
  cursor: BigInt64Array<SharedArrayBuffer>;
  /** One word: 1 while a thread writes. */
  writing: Int32Array<SharedArrayBuffer>;
}

/**
 * The ceiling of every copy through memory: as many threads as a backup has read and write all of a file, a megabyte at a
 * time, and do nothing else. One call of JavaScript per megabyte does not show.
 */
export class BareCopier implements AsyncDisposable {
  readonly #workers = Array.from(
    { length: availableParallelism() },
    () => new Worker(new URL('./bare-copy-worker.mjs', import.meta.url)),
  );

  /** The target is durable when it ends. */
  async copy(source: string, target: string, sizeBytes: number): Promise<void> {
    await using from = await open(source, 'r');
    await using to = await open(target, constants.O_RDWR | constants.O_CREAT);
    const task: BareCopyTask = {
      sourceFd: from.fd,
      targetFd: to.fd,
      sizeBytes,
      cursor: new BigInt64Array(new SharedArrayBuffer(8)),
      writing: new Int32Array(new SharedArrayBuffer(4)),
    };
    await Promise.all(
      this.#workers.map((worker) => {
        const done = once(worker, 'message');
        worker.postMessage(task);
        return done;
      }),
    );
    await to.datasync();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}
