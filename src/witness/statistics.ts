import { createHistogram } from 'node:perf_hooks';
import { messageOf } from '../runtime/errors.js';

/** What a workload did and saw. */
export interface WorkloadStatistics {
  /** Writes that were acknowledged, and their bytes. */
  writes: number;
  writtenBytes: number;
  /** Writes that failed or were not answered in time. */
  failedWrites: number;
  reads: number;
  failedReads: number;
  flushes: number;
  failedFlushes: number;
  /** The message of the first request that failed. */
  firstFailure: string | undefined;
  /** Sectors in which a read found something other than the last acknowledged write. */
  violations: number;
  firstViolation: string | undefined;
  /** Acknowledged writes, from the request to the answer, in ms, to three digits. Zeros before the first. */
  latencyMs: { p50: number; p99: number; max: number };
}

/** Collects the statistics of a workload. */
export class Tally {
  readonly #sums: Omit<WorkloadStatistics, 'latencyMs'> = {
    writes: 0,
    writtenBytes: 0,
    failedWrites: 0,
    reads: 0,
    failedReads: 0,
    flushes: 0,
    failedFlushes: 0,
    firstFailure: undefined,
    violations: 0,
    firstViolation: undefined,
  };
  readonly #latencyUs = createHistogram();

  acknowledged(lengthBytes: number, latencyMs: number): void {
    this.#sums.writes++;
    this.#sums.writtenBytes += lengthBytes;
    // The histogram takes whole numbers from 1 on.
    this.#latencyUs.record(Math.max(1, Math.round(latencyMs * 1000)));
  }

  done(what: 'reads' | 'flushes'): void {
    this.#sums[what]++;
  }

  failed(what: 'failedWrites' | 'failedReads' | 'failedFlushes', error: unknown): void {
    this.#sums[what]++;
    this.#sums.firstFailure ??= messageOf(error);
  }

  violated(what: string): void {
    this.#sums.violations++;
    this.#sums.firstViolation ??= what;
  }

  get statistics(): WorkloadStatistics {
    const latency = this.#latencyUs;
    return {
      ...this.#sums,
      latencyMs: {
        p50: latency.percentile(50) / 1000,
        p99: latency.percentile(99) / 1000,
        max: latency.max / 1000,
      },
    };
  }
}
