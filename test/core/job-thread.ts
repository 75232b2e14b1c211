import { Worker } from 'node:worker_threads';
import { BlockState, type CopyJob, type CopyResult, type CoreName } from '#src/core/core';
import type { ErrorMessage } from '#src/runtime/error-message';

export interface Outcome {
  result?: CopyResult;
  failed?: ErrorMessage;
}

/** Starts a copy job on a thread of its own. The job's shared memory is the same memory there. */
export async function copyOnThread(core: CoreName, job: CopyJob): Promise<Outcome> {
  const thread = new Worker(new URL('job-thread.mjs', import.meta.url), { workerData: { core, job } });
  try {
    return await new Promise<Outcome>((resolve, reject) => {
      thread.once('message', resolve);
      thread.once('error', reject);
    });
  } finally {
    await thread.terminate();
  }
}

/** Holds this thread until `condition` is true, so that what follows comes at once; fails when it takes too long. */
export function spinUntil(condition: () => boolean, what: string, deadlineMs = 30_000): void {
  const end = performance.now() + deadlineMs;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`waited ${deadlineMs} ms for ${what}`);
  }
}

/** Holds this thread until the job has read more than `bytes` or has no more to read. */
export function spinUntilRead(job: CopyJob, bytes: number): void {
  const isThere = (): boolean => Atomics.load(job.progress, 1) > bytes || hasReachedEnd(job);
  spinUntil(isThere, `a job to read ${bytes} bytes`);
}

/** Whether a job that leaves nothing out has decided about its last block. */
export function hasReachedEnd(job: CopyJob): boolean {
  return Atomics.load(job.states, job.blockCount - 1) !== BlockState.Skipped;
}
