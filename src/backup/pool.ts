import { availableParallelism } from 'node:os';
import { Piscina } from 'piscina';
import type { CopyJob, CopyResult, Core, JobEnd, RestoreJob } from '../core/core.js';
import { loadCore } from '../core/load.js';
import { errorFromMessage, type JobNames } from '../runtime/error-message.js';
import { invariant } from '../runtime/errors.js';
import type { PoolReply, PoolTask } from './worker.js';

/** More copy no faster on any machine, and each takes memory of its own: thousands take all that there is. */
export const MOST_WORKERS = 64;

/** What runs the core's jobs. */
export interface JobPool {
  readonly core: Core;
  /** How many jobs run side by side. */
  readonly workers: number;
  copy(names: JobNames, job: CopyJob): Promise<CopyResult>;
  restore(names: JobNames, job: RestoreJob): Promise<JobEnd>;
}

/** Worker threads that run the core's jobs. Threads share this process's file descriptors and shared memory. */
export class CopyPool implements JobPool, AsyncDisposable {
  readonly #threads: Piscina<PoolTask, PoolReply>;

  private constructor(
    readonly core: Core,
    readonly workers: number,
    threads: Piscina<PoolTask, PoolReply>,
  ) {
    this.#threads = threads;
  }

  /**
   * Resolves once all threads are up. Before that a pool must not be ended: a thread that is stopped while it still loads
   * its modules can take the whole process with it.
   *
   * @param workers number of threads, at least 1; by default one per processor, up to {@link MOST_WORKERS}.
   * @param options.givesWay Linux: the threads let others go first. Default false.
   */
  static async start(
    core: Core,
    workers: number = Math.min(availableParallelism(), MOST_WORKERS),
    { givesWay = false }: { givesWay?: boolean } = {},
  ): Promise<CopyPool> {
    const threads = new Piscina<PoolTask, PoolReply>({
      filename: new URL('./worker.js', import.meta.url).href,
      minThreads: workers,
      maxThreads: workers,
      concurrentTasksPerWorker: 1,
    });
    // Each thread takes one of these and keeps it until all have one, so each of them gets its turn.
    const arrived = new Int32Array(new SharedArrayBuffer(4));
    const meet = (): Promise<PoolReply> =>
      threads.run({ core: core.name, meet: { arrived, expected: workers, givesWay } });
    try {
      await Promise.all(Array.from({ length: workers }, meet));
      return new CopyPool(core, workers, threads);
    } catch (error) {
      await threads.destroy();
      throw error;
    }
  }

  async copy(names: JobNames, job: CopyJob): Promise<CopyResult> {
    const reply = await this.#run(names, { core: this.core.name, copy: job });
    invariant('copied' in reply, 'a copy task was answered by something else');
    return reply.copied;
  }

  async restore(names: JobNames, job: RestoreJob): Promise<JobEnd> {
    const reply = await this.#run(names, { core: this.core.name, restore: job });
    invariant('restored' in reply, 'a restore task was answered by something else');
    return reply.restored;
  }

  async #run(names: JobNames, task: PoolTask): Promise<PoolReply> {
    const reply = await this.#threads.run(task);
    if ('failed' in reply) throw errorFromMessage(reply.failed, names);
    return reply;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#threads.destroy();
  }
}

/** The caller's threads, or threads of its own that end with it. */
export class BorrowedPool implements AsyncDisposable {
  private constructor(
    readonly pool: JobPool,
    readonly own: CopyPool | undefined,
  ) {}

  static async of(
    shared: JobPool | undefined,
    workers?: number,
    options?: { givesWay: boolean },
  ): Promise<BorrowedPool> {
    if (shared) return new BorrowedPool(shared, undefined);
    const own = await CopyPool.start(await loadCore(), workers, options);
    return new BorrowedPool(own, own);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.own?.[Symbol.asyncDispose]();
  }
}
