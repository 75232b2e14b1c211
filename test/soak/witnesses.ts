import { NbdDevice } from 'cofferdam';
import { realClock } from '#src/runtime/clock';
import { messageOf } from '#src/runtime/errors';
import { INITIAL, readContents } from '#src/witness/contents';
import { HistoryFile } from '#src/witness/history-file';
import type { History } from '#src/witness/history';
import { freshRun } from '#src/witness/stamp';
import { Workload } from '#src/witness/workload';
import type { Counts } from './counts.js';
import { ObservedDevice } from './observed-device.js';
import { WITNESSED, WITNESSED_BYTES, type Site } from './site.js';

const WRITERS = 8;
const WRITES_PER_SECOND = 1500;

/** The clients of one round whose history judges the copies: chains of dependent writes across three servers. */
export class Witnesses {
  readonly #stop = new AbortController();
  readonly #running: Promise<unknown>;
  #isStopped = false;

  private constructor(
    private readonly site: Site,
    private readonly file: HistoryFile,
    private readonly devices: ReadonlyMap<string, ObservedDevice>,
    private readonly workload: Workload,
    /** Whether no write is answered before it is durable. */
    readonly everyWriteDurable: boolean,
  ) {
    const options = { writers: WRITERS, writesPerSecond: WRITES_PER_SECOND, signal: this.#stop.signal };
    this.#running = workload.run(options);
    // Looked at by whoever stops them.
    this.#running.catch(() => {});
  }

  /** Makes the devices zeros and begins to write. */
  static async start(
    site: Site,
    historyPath: string,
    { seed, everyWriteDurable }: { seed: number; everyWriteDurable: boolean },
  ): Promise<Witnesses> {
    const areas = WITNESSED.map((id) => ({ id, areaOffsetBytes: 0, areaLengthBytes: WITNESSED_BYTES }));
    const file = new HistoryFile(historyPath, { run: freshRun(), seed, areas });
    const devices = new Map<string, ObservedDevice>();
    for (const id of WITNESSED) {
      // A client that comes back by itself would read what was there before its lost writes.
      const device = await NbdDevice.open(site.memberOf(id).uriOf(id), { reconnectMs: 0 });
      devices.set(id, new ObservedDevice(device, everyWriteDurable));
    }
    const workload = new Workload(file.history, devices, realClock);
    await workload.prepare();
    return new Witnesses(site, file, devices, workload, everyWriteDurable);
  }

  get history(): History {
    return this.file.history;
  }

  /** Ends the writing. May be repeated. */
  async stop(): Promise<void> {
    if (this.#isStopped) return;
    this.#isStopped = true;
    this.#stop.abort();
    await this.#running;
    for (const device of this.devices.values()) await device.close();
  }

  /**
   * Compares what the devices hold, once all are served again, with what the clients were told.
   *
   * @param struck servers whose clients a fault disconnected.
   * @throws Error for a request that failed without a fault, a wrong read, or a write that is missing.
   */
  async check(struck: ReadonlySet<string>, counts: Counts): Promise<void> {
    const { violations, firstViolation, writes, reads, latencyMs } = this.workload.statistics;
    if (violations > 0) throw new Error(`a client read what it should not: ${firstViolation}`);
    counts.clients.writes += writes;
    counts.clients.verifiedReads += reads;
    counts.clients.longestWriteMs = Math.max(counts.clients.longestWriteMs, latencyMs.max);
    for (const [index, id] of WITNESSED.entries()) {
      const device = this.devices.get(id);
      if (!device) throw new Error(`nobody wrote to ${id}`);
      counts.clients.flushes += device.flushes;
      if (device.failures > 0 && !struck.has(id))
        throw new Error(
          `a client of ${id}, which no fault struck, failed: ${messageOf(device.firstFailure)}`,
        );
      counts.clients.failedByFault += device.failures;
      const mustHold = struck.has(id) && this.site.isVolatile(id) ? device.durable : device.answered;
      counts.sectorsChecked += await this.#checkSectors(index, id, mustHold);
    }
  }

  [Symbol.dispose](): void {
    this.file[Symbol.dispose]();
  }

  async #checkSectors(index: number, id: string, mustHold: Int32Array): Promise<number> {
    await using device = await NbdDevice.open(this.site.memberOf(id).uriOf(id));
    const { holds, firstDefect } = await readContents(this.history, index, device);
    if (firstDefect) throw new Error(`${id}: byte ${firstDefect.offsetBytes} holds ${firstDefect.found}`);
    for (const [sector, sequence] of mustHold.entries()) {
      const found = holds[sector] ?? INITIAL;
      if (found < sequence)
        throw new Error(`${id}: write ${sequence} is lost; sector ${sector} holds write ${found} instead`);
    }
    return mustHold.length;
  }
}
