import { getPriority, setPriority } from 'node:os';
import { loadCore } from '../core/load.js';
import type { CopyJob, CopyResult, Core, CoreName, JobEnd, RestoreJob } from '../core/core.js';
import { errorToMessage, type ErrorMessage } from '../runtime/error-message.js';

export type PoolTask = { core: CoreName } & ({ copy: CopyJob } | { restore: RestoreJob } | { meet: Meeting });
export type PoolReply =
  { failed: ErrorMessage } | { copied: CopyResult } | { restored: JobEnd } | { met: true };

/** Where the threads of a pool wait until all of them are up. */
export interface Meeting {
  /** One word: how many have arrived. */
  arrived: Int32Array<SharedArrayBuffer>;
  expected: number;
  /** Whether these threads let others go first. */
  givesWay: boolean;
}

/**
 * A thread of this priority gets a tenth of what another one gets that wants the same processor (sched(7)). Lower ones get
 * next to nothing on a busy machine: the copy would never end, and keep its pre-images for as long.
 */
const GIVES_WAY = 10;

/** What runs on the pool's threads: one job of the core, start to end. */
export default async function runTask(task: PoolTask): Promise<PoolReply> {
  const core = await loadCore(task.core);
  try {
    return runJob(core, task);
  } catch (error) {
    // Structured cloning would strip the code off the error.
    return { failed: errorToMessage(error) };
  }
}

function runJob(core: Core, task: PoolTask): PoolReply {
  if ('copy' in task) return { copied: core.copy(task.copy) };
  if ('restore' in task) return { restored: core.restore(task.restore) };
  meet(task.meet);
  return { met: true };
}

function meet({ arrived, expected, givesWay }: Meeting): void {
  // On Linux this is the priority of the calling thread alone; elsewhere it would be that of the process.
  if (givesWay && process.platform === 'linux') setPriority(Math.max(getPriority(), GIVES_WAY));
  Atomics.add(arrived, 0, 1);
  Atomics.notify(arrived, 0);
  for (let count = Atomics.load(arrived, 0); count < expected; count = Atomics.load(arrived, 0)) {
    Atomics.wait(arrived, 0, count);
  }
}
