import type { JobPool } from '../../backup/pool.js';
import type { CopyJob, CopyResult, Core, JobEnd, RestoreJob } from '../../core/core.js';
import { invariant } from '../../runtime/errors.js';
import type { JobNames } from '../../runtime/error-message.js';

/** Runs jobs at once on this thread: threads would not do the same things in the same order twice. */
export class InlinePool implements JobPool {
  readonly workers = 2;

  constructor(readonly core: Core) {}

  async copy(_names: JobNames, job: CopyJob): Promise<CopyResult> {
    invariant('bytes' in job.source && 'bytes' in job.sink, 'a simulated copy is made in memory');
    return this.core.copy(job);
  }

  async restore(_names: JobNames, job: RestoreJob): Promise<JobEnd> {
    return this.core.restore(job);
  }
}
