import type { BlockDevice } from '../devices/block-device.js';
import { sleep, type Clock } from '../runtime/clock.js';
import type { History } from './history.js';
import type { WorkloadStatistics } from './statistics.js';
import { Workload, type WorkloadOptions } from './workload.js';

export interface WatchedCopyOptions extends Omit<WorkloadOptions, 'signal' | 'writers'> {
  /** Where it is all recorded. */
  history: History;
  /** Each device of the history, by ID. Their areas are made zeros first. */
  devices: ReadonlyMap<string, BlockDevice>;
  clock: Clock;
  /** Clients at work side by side. Default 8. */
  writers?: number | undefined;
  /** How long the clients write before the copy is requested, in ms. */
  beforeMs: number;
  /** How long they go on after it is complete, in ms. */
  afterMs: number;
  signal?: AbortSignal | undefined;
}

export interface WatchedCopy<T> {
  /** Its number in the history. */
  copy: number;
  /** What taking it gave. */
  result: T;
  workload: WorkloadStatistics;
}

/**
 * Lets clients write chains of dependent writes across devices, and has a copy taken in the middle of it.
 *
 * @param takeCopy gets a signal that aborts when the run is to end, or when its clients cannot go on.
 * @throws what `takeCopy` throws, and CofferdamError BAD_ARGUMENT for areas that do not fit their devices
 */
export async function watchCopy<T>(
  options: WatchedCopyOptions,
  takeCopy: (signal: AbortSignal) => Promise<T>,
): Promise<WatchedCopy<T>> {
  const { history, devices, clock, writers = 8, beforeMs, afterMs, signal: stopped, ...rest } = options;
  const workload = new Workload(history, devices, clock);
  await workload.prepare();

  const stop = new AbortController();
  const running = workload.run({ ...rest, writers, signal: stop.signal });
  // Clients that cannot go on, as when the history's disk is full, end the run; awaiting them below throws why.
  const broken = new AbortController();
  running.catch((error: unknown) => broken.abort(error));
  const signal = stopped ? AbortSignal.any([stopped, broken.signal]) : broken.signal;
  let copy: number;
  let result: T;
  try {
    await sleep(clock, beforeMs, signal);
    copy = history.requestCopy();
    result = await takeCopy(signal);
    history.completeCopy(copy);
    await sleep(clock, afterMs, signal);
  } finally {
    stop.abort();
    await running;
  }
  return { copy, result, workload: workload.statistics };
}
