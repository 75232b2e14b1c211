import { loadCore } from '../core/load.js';
import type { CopyJob, CopyResult, CoreName, JobEnd, RestoreJob } from '../core/core.js';
import { errorToMessage, type ErrorMessage } from '../runtime/error-message.js';

export type PoolTask = { core: CoreName } & ({ copy: CopyJob } | { restore: RestoreJob });
export type PoolReply = { failed: ErrorMessage } | { copied: CopyResult } | { restored: JobEnd };

/** What runs on the pool's threads: one job of the core, start to end. */
export default async function runTask(task: PoolTask): Promise<PoolReply> {
  const core = await loadCore(task.core);
  try {
    return 'copy' in task ? { copied: core.copy(task.copy) } : { restored: core.restore(task.restore) };
  } catch (error) {
    // Structured cloning would strip the code off the error.
    return { failed: errorToMessage(error) };
  }
}
