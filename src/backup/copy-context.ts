import type { HashAlgorithm } from '../core/core.js';
import type { Clock } from '../runtime/clock.js';
import type { CutSource } from '../servers/control.js';
import type { GenerationWriter } from './image/generation-writer.js';
import type { CopyStatistics } from './image/record.js';
import type { Pacer } from './pacer.js';
import type { JobPool } from './pool.js';
import type { Progress } from './progress.js';

/** What a copy needs besides its source; one per backup. */
export interface CopyContext {
  pool: JobPool;
  writer: GenerationWriter;
  algorithm: HashAlgorithm;
  blockSizeBytes: number;
  clock: Clock;
  pacer: Pacer;
  progress: Progress;
  statistics: CopyStatistics;
}

/** What the copies of one device's leaves share. */
export interface DeviceCopy {
  context: CopyContext;
  id: string;
  source: CutSource;
  /** See {@link CopyJob.cancel} and {@link CopyJob.progress}. */
  cancel: Int32Array<SharedArrayBuffer>;
  counters: BigInt64Array<SharedArrayBuffer>;
  signal: AbortSignal;
  /** Waits as long as the rate limit asks for what was read since it was last called. */
  payForReads(): Promise<void>;
}
