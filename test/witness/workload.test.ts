import { expect, test } from 'vitest';
import type { BlockDevice, WriteOptions } from '#src/devices/block-device';
import { FaultyDevice } from '#src/devices/faulty';
import { MemoryDevice } from '#src/devices/memory';
import { realClock, type Clock } from '#src/runtime/clock';
import { readContents } from '#src/witness/contents';
import { History } from '#src/witness/history';
import { judgeCopy } from '#src/witness/judge';
import type { WorkloadStatistics } from '#src/witness/statistics';
import { describeVerdict } from '#src/witness/verdict';
import { Workload, type WorkloadOptions } from '#src/witness/workload';
import { isSettled, ManualClock } from '../support/manual-clock.js';
import { copyAtOnce, SlowDevice, turns } from './devices.js';
import { testSeed } from '../support/seed.js';

const seed = testSeed();

const KiB = 1024;
/** 64 sectors, not at the start of the device and not aligned to anything. */
const area = { areaOffsetBytes: 1536, areaLengthBytes: 32 * KiB };
const areaEndBytes = area.areaOffsetBytes + area.areaLengthBytes;
const sizeBytes = 40 * KiB;

function ids<T>(devices: readonly T[]): Map<string, T> {
  return new Map(devices.map((device, index) => [`d${index}`, device]));
}

function historyFor(devices: ReadonlyMap<string, BlockDevice>, runSeed = seed): History {
  return new History({ run: 5, seed: runSeed, areas: [...devices.keys()].map((id) => ({ id, ...area })) });
}

interface Load {
  history: History;
  statistics: WorkloadStatistics;
}

/** Lets clients write until `body` has ended. */
async function underLoad(
  devices: ReadonlyMap<string, BlockDevice>,
  body: (history: History) => Promise<void>,
  options: Partial<WorkloadOptions> = {},
): Promise<Load> {
  const history = historyFor(devices);
  const workload = new Workload(history, devices);
  await workload.prepare();
  const stop = new AbortController();
  const running = workload.run({ writers: 8, signal: stop.signal, ...options });
  try {
    await body(history);
  } finally {
    stop.abort();
    await running;
  }
  return { history, statistics: workload.statistics };
}

/** Writes that number of times and returns. */
async function runWrites(
  devices: ReadonlyMap<string, BlockDevice>,
  maxWrites: number,
  options: Partial<WorkloadOptions> = {},
  clock: Clock = realClock,
): Promise<Load> {
  const history = historyFor(devices);
  const workload = new Workload(history, devices, clock);
  await workload.prepare();
  const { signal } = new AbortController();
  const statistics = await workload.run({ writers: 8, signal, maxWrites, ...options });
  return { history, statistics };
}

function slowDevices(count: number): Map<string, SlowDevice> {
  return ids(Array.from({ length: count }, (_, index) => new SlowDevice(sizeBytes, seed + index)));
}

test('copies of all devices at one instant are consistent, torn writes and all', async () => {
  const devices = slowDevices(4);
  let torn = 0;
  const { statistics } = await underLoad(devices, async (history) => {
    for (let round = 0; round < 40; round++) {
      await turns(20);
      const copy = history.requestCopy();
      await turns(round % 5);
      const images = await copyAtOnce(devices);
      await turns(round % 7);
      history.completeCopy(copy);
      const verdict = await judgeCopy(history, images, history.windowOf(copy));
      expect(verdict.group.consistent, describeVerdict(verdict.group)).toBe(true);
      expect(verdict.group.counts.included).toBeGreaterThan(0);
      torn += await tornWrites(history, images);
    }
  });
  // Without these the copies would all have been of devices at rest.
  expect(torn).toBeGreaterThan(10);
  expect(statistics).toMatchObject({ violations: 0, failedWrites: 0, failedReads: 0, failedFlushes: 0 });
});

/** How many writes a copy has only in part. */
async function tornWrites(history: History, images: ReadonlyMap<string, BlockDevice>): Promise<number> {
  const contents = await Promise.all(
    [...images.values()].map((image, device) => readContents(history, device, image)),
  );
  return history.writes.filter(({ sequence, device, firstSector, sectorCount }) => {
    const start = firstSector - area.areaOffsetBytes / 512;
    const held = [...(contents[device]?.holds.subarray(start, start + sectorCount) ?? [])];
    return held.some((content) => content >= sequence) && held.some((content) => content < sequence);
  }).length;
}

test('devices copied one after the other are not, though each alone is', async () => {
  const devices = slowDevices(4);
  const reasons: string[] = [];
  await underLoad(devices, async (history) => {
    for (let round = 0; round < 10; round++) {
      await turns(20);
      const copy = history.requestCopy();
      const images = new Map<string, MemoryDevice>();
      for (const [id, device] of devices) {
        for (const [, image] of await copyAtOnce(new Map([[id, device]]))) images.set(id, image);
        await turns(30);
      }
      history.completeCopy(copy);
      const { group, devices: alone } = await judgeCopy(history, images, history.windowOf(copy));
      reasons.push(group.consistent ? 'consistent' : group.reason);
      for (const verdict of alone.values()) expect(verdict.consistent, describeVerdict(verdict)).toBe(true);
    }
  });
  expect(reasons.filter((reason) => reason === 'precedence').length).toBeGreaterThan(5);
  expect(reasons.filter((reason) => reason !== 'precedence' && reason !== 'consistent')).toEqual([]);
});

/** Answers some writes without having carried them out. */
class LosingDevice extends SlowDevice {
  override async write(offsetBytes: number, bytes: Uint8Array, options?: WriteOptions): Promise<void> {
    if (this.random.chance(0.8)) await super.write(offsetBytes, bytes, options);
  }
}

test('a device that loses acknowledged writes is caught, by the judge and by reading back', async () => {
  const loser = new LosingDevice(sizeBytes, seed);
  const devices = ids([new SlowDevice(sizeBytes, seed + 1), loser]);
  let caught = 0;
  const { statistics } = await underLoad(devices, async (history) => {
    for (let round = 0; round < 10; round++) {
      await turns(100);
      const copy = history.requestCopy();
      const images = await copyAtOnce(devices);
      history.completeCopy(copy);
      const { group, devices: alone } = await judgeCopy(history, images, history.windowOf(copy));
      expect(alone.get('d0')?.consistent).toBe(true);
      // A lost write does not show once it has been overwritten.
      if (group.consistent) continue;
      expect(group).toMatchObject({ reason: 'lost-write', witness: { excluded: { device: 'd1' } } });
      expect(alone.get('d1')?.consistent).toBe(false);
      caught++;
    }
  });
  expect(caught).toBeGreaterThan(5);
  expect(statistics.violations).toBeGreaterThan(0);
  expect(statistics.firstViolation).toMatch(
    /^d1: byte \d+ should hold write \d+, but a read found (zero|write \d+)$/,
  );
});

test('a device that puts writes in the wrong place is caught', async () => {
  class AstrayDevice extends MemoryDevice {
    override async write(offsetBytes: number, bytes: Uint8Array): Promise<void> {
      await super.write(Math.max(area.areaOffsetBytes, offsetBytes - 512), bytes);
    }
  }
  const devices = ids([new AstrayDevice(sizeBytes)]);
  const { history, statistics } = await runWrites(devices, 500);
  const { group } = await judgeCopy(history, devices, { from: 0, to: history.eventCount });
  expect(group).toMatchObject({ consistent: false, reason: 'misplaced-stamp' });
  expect(statistics.violations).toBeGreaterThan(0);
});

type Outcome = 'nothing' | 'half' | 'all' | 'later';

/** Fails every nth write: without effect, after half of it, after all of it, or before it takes effect. */
class FailingDevice extends SlowDevice {
  readonly failures: Outcome[] = [];
  readonly late: Promise<void>[] = [];
  #writes = 0;

  constructor(
    deviceSeed: number,
    private readonly nth: number,
    private readonly outcomes: readonly Outcome[],
  ) {
    super(sizeBytes, deviceSeed);
  }

  override async write(offsetBytes: number, bytes: Uint8Array, options?: WriteOptions): Promise<void> {
    this.#writes++;
    if (this.#writes % this.nth !== 0) return super.write(offsetBytes, bytes, options);
    const outcome = this.random.pick(this.outcomes);
    this.failures.push(outcome);
    const halfBytes = Math.ceil(bytes.length / 1024) * 512;
    if (outcome === 'half') await super.write(offsetBytes, bytes.subarray(0, halfBytes), options);
    if (outcome === 'all') await super.write(offsetBytes, bytes, options);
    if (outcome === 'later') {
      this.late.push(turns(this.random.below(100)).then(() => super.write(offsetBytes, bytes, options)));
    }
    throw new Error('failed by the test');
  }
}

test('devices that delay and fail writes at random lose nothing that was acknowledged', async () => {
  const devices = ids(
    [1, 2, 3].map((index) => new FailingDevice(seed + index, 20, ['nothing', 'half', 'all', 'later'])),
  );
  const load = await underLoad(devices, async (history) => {
    for (let round = 0; round < 20; round++) {
      await turns(30);
      const copy = history.requestCopy();
      const images = await copyAtOnce(devices);
      history.completeCopy(copy);
      const { group } = await judgeCopy(history, images, history.windowOf(copy));
      expect(group.consistent, describeVerdict(group)).toBe(true);
    }
  });
  const failures = [...devices.values()].flatMap((device) => device.failures);
  expect(failures.length).toBeGreaterThan(0);
  expect(load.statistics).toMatchObject({
    failedWrites: failures.length,
    violations: 0,
    firstFailure: 'failed by the test',
  });
  expect(load.history.writes.filter(({ ack }) => ack === Infinity).length).toBe(failures.length);
  await Promise.all([...devices.values()].flatMap(({ late }) => late));
});

test('sectors of a write that failed are not written again, unless asked for', async () => {
  for (const reuseAfterFailure of [false, true]) {
    const devices = ids(
      [1, 2].map((index) => new FailingDevice(seed + index, 15, ['nothing', 'half', 'all'])),
    );
    const { history, statistics } = await runWrites(devices, 300, { reuseAfterFailure });
    const failed = history.writes.filter(({ ack }) => ack === Infinity);
    expect(failed.length).toBeGreaterThan(0);
    const reused = failed.some((write) =>
      history.writes
        .slice(write.sequence + 1)
        .some(
          (later) =>
            later.device === write.device &&
            later.firstSector < write.firstSector + write.sectorCount &&
            write.firstSector < later.firstSector + later.sectorCount,
        ),
    );
    expect(reused).toBe(reuseAfterFailure);
    // These devices do not let a failed write take effect later, so the copy can be judged either way.
    history.completeCopy(history.requestCopy());
    const { group } = await judgeCopy(history, await copyAtOnce(devices), history.windowOf(0));
    expect(group.consistent, describeVerdict(group)).toBe(true);
    expect(statistics.violations).toBe(0);
  }
});

test('reads and flushes that fail are counted, and the run goes on', async () => {
  const device = new FaultyDevice(new MemoryDevice(sizeBytes), { clock: realClock });
  device.inject({ operation: 'read', nth: 2 });
  const devices = ids([device]);
  const history = historyFor(devices);
  const workload = new Workload(history, devices);
  await workload.prepare();
  device.inject({ operation: 'flush', nth: 3 });
  await workload.run({ writers: 2, signal: new AbortController().signal, maxWrites: 1000 });
  expect(workload.statistics).toMatchObject({
    writes: 1000,
    failedReads: 1,
    failedFlushes: 1,
    violations: 0,
  });
  expect(workload.statistics.firstFailure).toContain('an injected fault');
});

test('no sector ever has two requests outstanding, and no request leaves the areas', async () => {
  class StrictDevice extends SlowDevice {
    readonly busy = new Set<number>();
    peak = 0;
    fuas = 0;

    override async write(offsetBytes: number, bytes: Uint8Array, options?: WriteOptions): Promise<void> {
      if (options?.fua) this.fuas++;
      await this.#alone(offsetBytes, bytes, () => super.write(offsetBytes, bytes, options));
    }

    override async read(offsetBytes: number, into: Uint8Array): Promise<void> {
      await this.#alone(offsetBytes, into, () => super.read(offsetBytes, into));
    }

    async #alone(offsetBytes: number, bytes: Uint8Array, action: () => Promise<void>): Promise<void> {
      const sectors = Array.from({ length: bytes.length / 512 }, (_, index) => offsetBytes / 512 + index);
      const inArea = offsetBytes >= area.areaOffsetBytes && offsetBytes + bytes.length <= areaEndBytes;
      if (!inArea || sectors.some((sector) => this.busy.has(sector))) problems.push(sectors);
      for (const sector of sectors) this.busy.add(sector);
      this.peak = Math.max(this.peak, this.busy.size);
      await action();
      for (const sector of sectors) this.busy.delete(sector);
    }
  }
  const problems: number[][] = [];
  const devices = ids([new StrictDevice(sizeBytes, seed), new StrictDevice(sizeBytes, seed + 1)]);
  const { statistics } = await runWrites(devices, 3000);
  expect(problems).toEqual([]);
  for (const device of devices.values()) {
    expect(device.peak).toBeGreaterThan(8);
    expect(device.fuas).toBeGreaterThan(0);
  }
  expect(statistics).toMatchObject({ writes: 3000, violations: 0 });
  expect(statistics.reads).toBeGreaterThan(0);
  expect(statistics.flushes).toBeGreaterThan(0);
});

test('each writer sends its next write to another device once the last is acknowledged', async () => {
  const { history } = await runWrites(slowDevices(3), 1000, { writers: 5 });
  expect(new Set(history.writes.map(({ writer }) => writer))).toEqual(new Set([0, 1, 2, 3, 4]));
  const last = new Map<number, History['writes'][number]>();
  for (const sent of history.writes) {
    const before = last.get(sent.writer);
    if (before) {
      expect(before.ack).toBeLessThan(sent.invoke);
      expect(before.device).not.toBe(sent.device);
    }
    last.set(sent.writer, sent);
  }
  // Several writers were at it at a time.
  expect(history.writes.some((sent, index) => (history.writes[index + 1]?.invoke ?? NaN) < sent.ack)).toBe(
    true,
  );
});

test('writes are of 1 to 8 sectors, anywhere in the area, and overwrite one another', async () => {
  const { history } = await runWrites(slowDevices(2), 2000);
  const places = (field: 'sectorCount' | 'firstSector'): number[] =>
    [...new Set(history.writes.map((sent) => sent[field]))].sort((a, b) => a - b);
  expect(places('sectorCount')).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  expect(places('firstSector')).toEqual(Array.from({ length: 64 }, (_, index) => 3 + index));
});

test('the same seed makes the same run', async () => {
  const runs = await Promise.all(
    [1, 1, 2].map(async (runSeed) => {
      const devices = ids([new MemoryDevice(sizeBytes), new MemoryDevice(sizeBytes)]);
      const history = historyFor(devices, runSeed);
      const { signal } = new AbortController();
      await new Workload(history, devices).run({ writers: 4, signal, maxWrites: 200 });
      return history.writes;
    }),
  );
  expect(runs[1]).toEqual(runs[0]);
  expect(runs[2]).not.toEqual(runs[0]);
});

test('the areas are made zeros and the rest of the devices is left alone', async () => {
  const device = new MemoryDevice(sizeBytes);
  await device.write(0, new Uint8Array(sizeBytes).fill(9));
  await runWrites(ids([device]), 100);
  const bytes = new Uint8Array(sizeBytes);
  await device.read(0, bytes);
  const outside = [...bytes.subarray(0, area.areaOffsetBytes), ...bytes.subarray(areaEndBytes)];
  expect(outside.every((byte) => byte === 9)).toBe(true);

  const fresh = ids([device]);
  await new Workload(historyFor(fresh), fresh).prepare();
  await device.read(0, bytes);
  expect(bytes.subarray(area.areaOffsetBytes, areaEndBytes).every((byte) => byte === 0)).toBe(true);
});

test('a device that answers at once does not keep the event loop to itself', async () => {
  const devices = ids([new MemoryDevice(sizeBytes), new MemoryDevice(sizeBytes)]);
  const maxWrites = 100_000;
  // If the loop did not turn, the timer could not end the run, and it would go on to the last write.
  const { statistics } = await underLoad(devices, () => new Promise((resolve) => setTimeout(resolve, 1)), {
    maxWrites,
  });
  expect(statistics.writes).toBeGreaterThan(0);
  expect(statistics.writes).toBeLessThan(maxWrites);
});

test('when failed writes have taken up every sector, the run still ends when it is told to', async () => {
  class BrokenDevice extends MemoryDevice {
    override async write(): Promise<void> {
      throw new Error('failed by the test');
    }

    override async flush(): Promise<void> {
      await turns(1);
    }
  }
  const { history, statistics } = await underLoad(ids([new BrokenDevice(sizeBytes)]), () => turns(2000));
  expect(statistics.writes).toBe(0);
  const claimed = history.writes.reduce((sum, { sectorCount }) => sum + sectorCount, 0);
  expect(claimed).toBe(area.areaLengthBytes / 512);
});

test('a rate is kept to, over all writers', async () => {
  const clock = new ManualClock();
  const devices = ids([new MemoryDevice(sizeBytes), new MemoryDevice(sizeBytes)]);
  const history = historyFor(devices);
  const stop = new AbortController();
  const running = new Workload(history, devices, clock).run({
    writers: 4,
    signal: stop.signal,
    writesPerSecond: 200,
  });
  await clock.advance(1);
  // The writers do not all begin at once.
  expect(history.writes.length).toBeLessThan(4);
  await clock.advance(999);
  expect(history.writes.length).toBeGreaterThanOrEqual(196);
  expect(history.writes.length).toBeLessThanOrEqual(204);
  stop.abort();
  await running;
  expect(clock.timers).toBe(0);
});

test.each([
  { stallMs: 50, least: 198, most: 202 },
  // Of a long stall no more than 100 ms are made up for: what follows must not be a burst.
  { stallMs: 1000, least: 218, most: 223 },
])(
  'after a stall of $stallMs ms the rate is made up for, within limits',
  async ({ stallMs, least, most }) => {
    const clock = new ManualClock();
    const device = new FaultyDevice(new MemoryDevice(sizeBytes), { clock });
    device.inject({ operation: 'write', fault: { delayMs: 1 } });
    device.inject({ operation: 'write', nth: 1, fault: { delayMs: stallMs } });
    const devices = ids([device]);
    const history = historyFor(devices);
    const stop = new AbortController();
    const running = new Workload(history, devices, clock).run({
      writers: 1,
      signal: stop.signal,
      writesPerSecond: 200,
    });
    await clock.advance(stallMs === 1000 ? 2000 : 1000);
    expect(history.writes.length).toBeGreaterThanOrEqual(least);
    expect(history.writes.length).toBeLessThanOrEqual(most);
    stop.abort();
    await clock.advance(1);
    await running;
  },
);

test('a write without an answer counts as failed after the timeout, whatever comes later', async () => {
  const clock = new ManualClock();
  const device = new FaultyDevice(new MemoryDevice(sizeBytes), { clock });
  const hanging = device.inject({ operation: 'write', nth: 3, fault: { hang: true } });
  const devices = ids([device]);
  const history = historyFor(devices);
  const workload = new Workload(history, devices, clock);
  const running = workload.run({
    writers: 1,
    signal: new AbortController().signal,
    maxWrites: 5,
    timeoutMs: 1000,
  });
  await clock.advance(999);
  expect(history.writes.length).toBe(3);
  await clock.advance(1);
  expect(await running).toMatchObject({
    writes: 4,
    failedWrites: 1,
    firstFailure: 'd0: no answer within 1000 ms',
  });
  hanging.release();
  await turns(5);
  expect(history.writes[2]?.ack).toBe(Infinity);
  expect(clock.timers).toBe(0);
});

test('latencies are those of the writes, from the request to the answer', async () => {
  const clock = new ManualClock();
  const device = new FaultyDevice(new MemoryDevice(sizeBytes), { clock });
  device.inject({ operation: 'write', fault: { delayMs: 2 } });
  device.inject({ operation: 'write', nth: 50, fault: { delayMs: 498 } });
  device.inject({ operation: 'read', fault: { delayMs: 10_000 } });
  const running = runWrites(ids([device]), 50, { writers: 1 }, clock);
  while (!(await isSettled(running))) await clock.advance(1000);
  const { statistics } = await running;
  expect(statistics.reads).toBeGreaterThan(0);
  expect(statistics.latencyMs.p50).toBeCloseTo(2, 1);
  expect(statistics.latencyMs.max).toBeGreaterThan(499);
  expect(statistics.latencyMs.max).toBeLessThan(502);
  expect(statistics.latencyMs.p99).toBeLessThanOrEqual(statistics.latencyMs.max);
});

test('before the first write the latencies are zero', () => {
  const devices = ids([new MemoryDevice(sizeBytes)]);
  const { latencyMs } = new Workload(historyFor(devices), devices).statistics;
  expect(latencyMs).toEqual({ p50: 0, p99: 0, max: 0 });
});

test('a run that was told to stop waits for its requests and sends no more', async () => {
  const clock = new ManualClock();
  const device = new FaultyDevice(new MemoryDevice(sizeBytes), { clock });
  device.inject({ operation: 'write', fault: { delayMs: 100 } });
  const devices = ids([device]);
  const history = historyFor(devices);
  const stop = new AbortController();
  const running = new Workload(history, devices, clock).run({ writers: 3, signal: stop.signal });
  await clock.advance(50);
  stop.abort();
  expect(await isSettled(running)).toBe(false);
  await clock.advance(50);
  // A read or a flush may follow the write of a chain, but no other write.
  expect(await running).toMatchObject({ writes: 3, failedWrites: 0 });
  expect(history.writes.length).toBe(3);
});

test('a run ends when its history cannot be recorded any more', async () => {
  const devices = slowDevices(2);
  const areas = [...devices.keys()].map((id) => ({ id, ...area }));
  const history = new History({ run: 1, seed, areas }, ({ event }) => {
    if (event === 100) throw new Error('no space for the history');
  });
  const { signal } = new AbortController();
  const running = new Workload(history, devices).run({ writers: 4, signal, maxWrites: 10_000 });
  await expect(running).rejects.toThrow('no space for the history');
  // The other writers stop too.
  expect(history.writes.length).toBeLessThan(100);
});

test('what cannot be run is refused', async () => {
  const device = new MemoryDevice(sizeBytes);
  const devices = ids([device]);
  const code = (expected: string): unknown => expect.objectContaining({ code: expected });
  expect(() => new Workload(historyFor(devices), new Map())).toThrow(code('UNKNOWN_DEVICE'));
  expect(() => new Workload(historyFor(devices), ids([new MemoryDevice(areaEndBytes - 512)]))).toThrow(
    code('BAD_ARGUMENT'),
  );
  const workload = new Workload(historyFor(devices), devices);
  const { signal } = new AbortController();
  for (const options of [{ writers: 0 }, { writers: 1.5 }, { writers: 1, writesPerSecond: 0 }]) {
    await expect(workload.run({ signal, maxWrites: 1, ...options })).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
    });
  }
});
