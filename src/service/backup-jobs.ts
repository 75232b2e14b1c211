import { EventEmitter, on } from 'node:events';
import { backup, type BackupResult } from '../backup/backup.js';
import type { DeviceProgress } from '../backup/progress.js';
import type { Clock } from '../runtime/clock.js';
import { CofferdamError } from '../runtime/errors.js';
import type { BackupRequestBody, JobStatusBody } from './control-schema.js';
import { bodyOfError } from './error-body.js';
import type { ClusterService } from './service.js';

/** So many jobs that have ended are remembered. */
const REMEMBERED_JOBS = 100;

/** A backup that runs in the process that serves the devices. */
class BackupJob {
  readonly #controller = new AbortController();
  readonly #events = new EventEmitter();
  readonly ended: Promise<void>;
  #devices: readonly DeviceProgress[] = [];
  #result: BackupResult | undefined;
  #error: unknown;
  #isRunning = true;

  constructor(
    readonly number: number,
    private readonly to: string,
    run: (
      signal: AbortSignal,
      onProgress: (devices: readonly DeviceProgress[]) => void,
    ) => Promise<BackupResult>,
  ) {
    this.#events.setMaxListeners(0);
    this.ended = this.#run(run);
  }

  get isRunning(): boolean {
    return this.#isRunning;
  }

  get status(): JobStatusBody {
    const state = this.#isRunning ? 'running' : this.#result ? 'done' : 'failed';
    return {
      job: this.number,
      to: this.to,
      state,
      devices: [...this.#devices],
      result: this.#result ? { ...this.#result } : null,
      error: state === 'failed' ? bodyOfError(this.#error) : null,
    };
  }

  cancel(reason?: CofferdamError): void {
    this.#controller.abort(reason);
  }

  /** The status now and after each change; the last one is of a job that has ended. */
  async *watch(signal: AbortSignal): AsyncGenerator<JobStatusBody> {
    // Listened to before the first status is taken, so that no change is missed in between.
    const changes = on(this.#events, 'change', { signal });
    try {
      yield this.status;
      while (this.#isRunning) {
        await changes.next();
        yield this.status;
      }
    } finally {
      await changes.return?.();
    }
  }

  async #run(run: ConstructorParameters<typeof BackupJob>[2]): Promise<void> {
    try {
      this.#result = await run(this.#controller.signal, (devices) => {
        this.#devices = devices;
        this.#events.emit('change');
      });
    } catch (error) {
      this.#error = error;
    }
    this.#isRunning = false;
    this.#events.emit('change');
  }
}

/** The backups that were asked for through the control API. */
export class BackupJobs {
  readonly #service: ClusterService;
  readonly #clock: Clock;
  readonly #jobs = new Map<number, BackupJob>();
  #lastNumber = 0;

  constructor(service: ClusterService, clock: Clock) {
    this.#service = service;
    this.#clock = clock;
  }

  /**
   * Starts to back up devices of this process. What else is wrong with it shows in the job's status.
   *
   * @throws CofferdamError UNKNOWN_DEVICE
   */
  start({ to, servers: ids, ...options }: BackupRequestBody): JobStatusBody {
    const { cluster } = this.#service;
    const servers = ids ? ids.map((id) => cluster.server(id)) : cluster.servers;
    const job = new BackupJob(++this.#lastNumber, to, (signal, onProgress) =>
      backup({
        servers,
        to,
        ...definedOnly(options),
        signal,
        onProgress,
        clock: this.#clock,
      }),
    );
    this.#jobs.set(job.number, job);
    this.#forgetOldOnes();
    return job.status;
  }

  /** The statuses of all, without timelines: those are long, and whoever wants one asks for its job. */
  list(): JobStatusBody[] {
    return [...this.#jobs.values()].map(({ status }) => {
      return { ...status, result: status.result && { ...status.result, timeline: undefined } };
    });
  }

  /** @throws CofferdamError UNKNOWN_JOB */
  status(number: number): JobStatusBody {
    return this.#job(number).status;
  }

  /** @throws CofferdamError UNKNOWN_JOB */
  watch(number: number, signal: AbortSignal): AsyncGenerator<JobStatusBody> {
    return this.#job(number).watch(signal);
  }

  /**
   * Cancels a job and waits until it has ended. Nothing happens to one that has.
   *
   * @throws CofferdamError UNKNOWN_JOB
   */
  async cancel(number: number): Promise<JobStatusBody> {
    const job = this.#job(number);
    job.cancel();
    await job.ended;
    return job.status;
  }

  /** Cancels what runs, and tells whoever waits for it that the program ends. */
  async close(): Promise<void> {
    const running = [...this.#jobs.values()].filter(({ isRunning }) => isRunning);
    for (const job of running) {
      const message =
        'the program that serves the devices was stopped before the backup was done; nothing was committed';
      job.cancel(new CofferdamError('CANCELLED', `${message}: start it again, and try again`));
    }
    await Promise.all(running.map((job) => job.ended));
  }

  #job(number: number): BackupJob {
    const job = this.#jobs.get(number);
    if (job) return job;
    throw new CofferdamError('UNKNOWN_JOB', `there is no backup job ${number}, or it ended long ago`);
  }

  #forgetOldOnes(): void {
    const ended = [...this.#jobs.values()].filter((job) => !job.isRunning);
    for (const job of ended.slice(0, Math.max(0, ended.length - REMEMBERED_JOBS)))
      this.#jobs.delete(job.number);
  }
}

/** Without the entries that are undefined: an option that is not given is absent. */
function definedOnly<T extends object>(options: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  return Object.fromEntries(given) as { [K in keyof T]: Exclude<T[K], undefined> };
}
