import { setImmediate as nextTurn } from 'node:timers/promises';
import type { BlockDevice } from '../devices/block-device.js';
import { allSettled } from '../devices/settle.js';
import { realClock, sleep, type Clock } from '../runtime/clock.js';
import { CofferdamError, invariant } from '../runtime/errors.js';
import { Random } from '../runtime/random.js';
import { SECTOR_BYTES } from '../runtime/sizes.js';
import { firstSectorOf, sectorCountOf, type Area } from './area.js';
import { INITIAL } from './contents.js';
import type { History } from './history.js';
import { Ledger, UNCERTAIN, type Claim } from './ledger.js';
import { readStamp, stampedSectors } from './stamp.js';
import { Tally, type WorkloadStatistics } from './statistics.js';

export interface WorkloadOptions {
  /** Writers at work side by side, at least 1. */
  writers: number;
  /** Ends the run. Requests in flight are waited for. */
  signal: AbortSignal;
  /** Ends the run after that many writes. Default: none. */
  maxWrites?: number;
  /** A rate that all writers together keep to. Default: as fast as the devices answer. */
  writesPerSecond?: number | undefined;
  /** How long a request may take before it counts as failed, in ms. Default 30 000. */
  timeoutMs?: number;
  /**
   * Whether the sectors of a write that failed are written again. Default false: such a write may still take effect at
   * any time, so the order of the writes of its sectors would not be known. True is sound only for devices on which a
   * write that failed cannot take effect later.
   */
  reuseAfterFailure?: boolean;
}

const FUA_SHARE = 0.05;
const READ_SHARE = 0.1;
const FLUSH_SHARE = 0.02;
const DEFAULT_TIMEOUT_MS = 30_000;
/** How far behind its rate a writer that was held up may be, to run faster until it has caught up, in ms. */
const CATCH_UP_MS = 100;

/** A device of the history, with what belongs to it here. */
interface Target {
  index: number;
  area: Area;
  device: BlockDevice;
  ledger: Ledger;
}

/** The options of one run, worked out. */
interface Run extends WorkloadOptions {
  isOver: () => boolean;
  /** Time between two writes of one writer, in ms. */
  intervalMs: number;
}

/**
 * Clients that write to block devices and record what they see. Each writer sends a write, waits for its answer, and
 * sends the next one to another device: every write depends on the one before, across devices. Every sector is stamped
 * with the write that it comes from. Now and then a writer flushes, or reads and checks that it finds the last
 * acknowledged write.
 *
 * Invariants:
 *
 * 1. The history has a write's invoke before the device is asked, and its ack only after the device has answered.
 * 2. No sector has two requests outstanding; see {@link Ledger}. The sectors of a write that failed stay claimed for
 *    ever, unless told otherwise.
 */
export class Workload {
  readonly #targets: Target[];
  readonly #tally = new Tally();

  /**
   * @param history where the run is recorded. Its header names the areas and the seed.
   * @param devices each device of the history, by ID.
   * @throws CofferdamError UNKNOWN_DEVICE, or BAD_ARGUMENT if an area is not within its device.
   */
  constructor(
    private readonly history: History,
    devices: ReadonlyMap<string, BlockDevice>,
    private readonly clock: Clock = realClock,
  ) {
    this.#targets = history.header.areas.map((area, index) => {
      const device = deviceOf(area, devices);
      return { index, area, device, ledger: new Ledger(sectorCountOf(area)) };
    });
  }

  /** What was done so far. */
  get statistics(): WorkloadStatistics {
    return this.#tally.statistics;
  }

  /** Makes the areas zeros, as the history says they are before the first write. */
  async prepare(): Promise<void> {
    invariant(this.history.writes.length === 0, 'the areas cannot be made zeros once they were written to');
    await Promise.all(
      this.#targets.map(async ({ area, device }) => {
        await device.writeZeroes(area.areaOffsetBytes, area.areaLengthBytes);
        await device.flush();
      }),
    );
  }

  /**
   * Runs until told to stop. Requests that fail do not end it; they are counted.
   *
   * @throws CofferdamError BAD_ARGUMENT, and what recording the history throws.
   */
  async run(options: WorkloadOptions): Promise<WorkloadStatistics> {
    const { writers, signal, maxWrites = Infinity, writesPerSecond = Infinity } = options;
    if (!Number.isSafeInteger(writers) || writers < 1 || !(writesPerSecond > 0)) {
      throw new CofferdamError(
        'BAD_ARGUMENT',
        `${writers} writers at ${writesPerSecond} writes/s: both must be above 0`,
      );
    }
    const end = this.history.writes.length + maxWrites;
    let hasFailed = false;
    const run: Run = {
      ...options,
      isOver: () => hasFailed || signal.aborted || this.history.writes.length >= end,
      intervalMs: (writers * 1000) / writesPerSecond,
    };
    const random = new Random(this.history.header.seed);
    const chains = Array.from({ length: writers }, async (_, writer) => {
      try {
        await this.#writeChain(writer, random.fork(), run);
      } catch (error) {
        hasFailed = true;
        throw error;
      }
    });
    await allSettled(chains);
    return this.statistics;
  }

  async #writeChain(writer: number, random: Random, run: Run): Promise<void> {
    let target = random.pick(this.#targets);
    let dueMs = this.clock.nowMs() + random.unit() * run.intervalMs;
    for (;;) {
      await this.#waitUntil(dueMs, run.signal);
      if (run.isOver()) return;
      const claim = target.ledger.claim(random);
      if (claim) await this.#write(writer, target, claim, random.chance(FUA_SHARE), run);
      if (random.chance(READ_SHARE)) await this.#readBack(target, random, run);
      if (random.chance(FLUSH_SHARE)) await this.#flush(target, run);
      dueMs = Math.max(dueMs + run.intervalMs, this.clock.nowMs() - CATCH_UP_MS);
      target = this.#another(target, random);
      // Neither a device that answers at once nor one without free sectors may keep the event loop busy for ever.
      await nextTurn();
    }
  }

  async #waitUntil(dueMs: number, signal: AbortSignal): Promise<void> {
    const delayMs = dueMs - this.clock.nowMs();
    // Sleeping fails only when the run is over, which is what the caller looks at next.
    if (delayMs > 0) await sleep(this.clock, delayMs, signal).catch(() => {});
  }

  /** A device other than this one, if there is one. */
  #another(target: Target, random: Random): Target {
    const others = this.#targets.filter((candidate) => candidate !== target);
    return others.length === 0 ? target : random.pick(others);
  }

  async #write(writer: number, target: Target, claim: Claim, fua: boolean, run: Run): Promise<void> {
    const { index: device, ledger } = target;
    const sector = firstSectorOf(target.area) + claim.first;
    const sequence = this.history.invoke(writer, device, sector, claim.count);
    const stamp = { run: this.history.header.run, sector, device, writer, sequence };
    const bytes = stampedSectors(stamp, claim.count);
    const startMs = this.clock.nowMs();
    try {
      await this.#answer(target.device.write(sector * SECTOR_BYTES, bytes, { fua }), target, run);
    } catch (error) {
      this.#tally.failed('failedWrites', error);
      ledger.expect(claim, UNCERTAIN);
      if (run.reuseAfterFailure) ledger.release(claim);
      return;
    }
    this.history.ack(sequence);
    this.#tally.acknowledged(bytes.length, this.clock.nowMs() - startMs);
    ledger.expect(claim, sequence);
    ledger.release(claim);
  }

  /** Reads some sectors and checks that they hold the last acknowledged writes. */
  async #readBack(target: Target, random: Random, run: Run): Promise<void> {
    const claim = target.ledger.claim(random);
    if (!claim) return;
    const bytes = new Uint8Array(claim.count * SECTOR_BYTES);
    const offsetBytes = target.area.areaOffsetBytes + claim.first * SECTOR_BYTES;
    try {
      await this.#answer(target.device.read(offsetBytes, bytes), target, run);
    } catch (error) {
      this.#tally.failed('failedReads', error);
      return;
    } finally {
      target.ledger.release(claim);
    }
    this.#tally.done('reads');
    for (let index = 0; index < claim.count; index++) {
      this.#compare(
        target,
        claim.first + index,
        bytes.subarray(index * SECTOR_BYTES, (index + 1) * SECTOR_BYTES),
      );
    }
  }

  #compare({ index: device, area, ledger }: Target, areaSector: number, bytes: Uint8Array): void {
    const expected = ledger.expected(areaSector);
    if (expected === UNCERTAIN) return;
    const sector = firstSectorOf(area) + areaSector;
    const { run } = this.history.header;
    const stamp = readStamp(bytes);
    const matches =
      typeof stamp === 'string'
        ? stamp === 'zero' && expected === INITIAL
        : stamp.run === run &&
          stamp.device === device &&
          stamp.sector === sector &&
          stamp.sequence === expected;
    if (matches) return;
    const found = typeof stamp === 'string' ? stamp : `write ${stamp.sequence}`;
    this.#tally.violated(
      `${area.id}: byte ${sector * SECTOR_BYTES} should hold ${expected === INITIAL ? 'zeros' : `write ${expected}`}, ` +
        `but a read found ${found}`,
    );
  }

  async #flush(target: Target, run: Run): Promise<void> {
    try {
      await this.#answer(target.device.flush(), target, run);
      this.#tally.done('flushes');
    } catch (error) {
      this.#tally.failed('failedFlushes', error);
    }
  }

  /**
   * Waits for the answer to a request.
   *
   * @throws what the request throws, or DEVICE_IO if it is not answered in time; it may still take effect then.
   */
  #answer(request: Promise<void>, { area }: Target, { timeoutMs = DEFAULT_TIMEOUT_MS }: Run): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = this.clock.setTimer(timeoutMs, () =>
        reject(
          new CofferdamError('DEVICE_IO', `${area.id}: no answer within ${timeoutMs} ms`, {
            device: area.id,
          }),
        ),
      );
      void request.then(resolve, reject).finally(() => timer[Symbol.dispose]());
    });
  }
}

/** @throws CofferdamError UNKNOWN_DEVICE, BAD_ARGUMENT */
function deviceOf(area: Area, devices: ReadonlyMap<string, BlockDevice>): BlockDevice {
  const { id, areaOffsetBytes, areaLengthBytes } = area;
  const device = devices.get(id);
  if (!device) {
    throw new CofferdamError('UNKNOWN_DEVICE', `${id}: the workload was not given this device`, {
      device: id,
    });
  }
  const endBytes = areaOffsetBytes + areaLengthBytes;
  if (endBytes > device.sizeBytes) {
    throw new CofferdamError(
      'BAD_ARGUMENT',
      `${id}: the witness area ends at byte ${endBytes}, but the device at byte ${device.sizeBytes}`,
      { device: id, offsetBytes: areaOffsetBytes, lengthBytes: areaLengthBytes },
    );
  }
  return device;
}
