import { expect, test } from 'vitest';
import { backup, MemoryDevice, StorageServer } from 'cofferdam';
import type { BackupResult, BackupTimeline, BarrierSpan } from 'cofferdam';
import { DeviceStore } from '#src/backup/image/device-store';
import { BackupImage } from '#src/backup/image/image';
import { longestStallMs, type Strategy } from '#src/backup/image/record';
import { loadCore } from '#src/core/load';
import { sleep } from '#src/runtime/clock';
import { MiB } from '#src/runtime/sizes';
import { InlinePool } from '#src/simulation/world/inline-pool';
import { VirtualTime } from '#src/simulation/virtual-time';

const BLOCK = 4096;
const IDS = ['a', 'b', 'c'];
const WRITE_EVERY_MS = 3;

const core = await loadCore('portable');

interface Kind {
  strategy: Strategy;
  closingCut?: boolean;
}

/** A backup of three devices of 4 MiB at 4 MiB a second, in time that is made up, while each has a client that writes. */
async function backUp({ timeline = true, ...kind }: Kind & { timeline?: boolean }): Promise<BackupResult> {
  const time = new VirtualTime();
  const servers = IDS.map((id) => new StorageServer({ id, device: new MemoryDevice(4 * MiB), clock: time }));
  let isOver = false;
  const client = async (server: StorageServer): Promise<void> => {
    for (let place = 0; !isOver; place = (place + BLOCK) % (4 * MiB)) {
      await server.client.write(place, new Uint8Array(512));
      await sleep(time, WRITE_EVERY_MS);
    }
  };
  const run = async (): Promise<BackupResult> => {
    const to = await BackupImage.initialise(new DeviceStore(new MemoryDevice(64 * MiB)), core, {});
    for (const server of servers) await server.client.write(0, new Uint8Array(4 * MiB).fill(0x5a));
    const clients = servers.map(client);
    await sleep(time, 1000);
    const pool = new InlinePool(core);
    const limit = { limitBytesPerSecond: 4 * MiB, maxStallMs: 60_000 };
    const result = await backup({
      servers,
      to,
      pool,
      clock: time,
      blockSizeBytes: BLOCK,
      timeline,
      ...limit,
      ...kind,
    });
    isOver = true;
    await Promise.all(clients);
    return result;
  };
  return await time.run(run());
}

async function timelineOf(kind: Kind): Promise<BackupTimeline> {
  const { timeline, elapsedMs } = await backUp(kind);
  if (!timeline) throw new Error('the result has a timeline');
  for (const { cutMs, confirmedMs, releaseMs, releasedMs } of timeline.barriers) {
    const order = [0, cutMs, confirmedMs, releaseMs, releasedMs, elapsedMs];
    expect(order).toEqual(order.toSorted((one, other) => one - other));
  }
  return timeline;
}

/** For how long all these barriers were up together; negative if they never were. */
function overlapMs(barriers: readonly BarrierSpan[]): number {
  return (
    Math.min(...barriers.map(({ releaseMs }) => releaseMs)) -
    Math.max(...barriers.map(({ confirmedMs }) => confirmedMs))
  );
}

/** The n-th copy, and the barrier of the n-th single cut, of each device. */
function copyUnderItsBarrier({
  barriers,
  copies,
}: BackupTimeline): [BarrierSpan, BackupTimeline['copies'][0]][] {
  return IDS.map((id) => {
    const barrier = barriers.find((span) => span.id === id);
    const copy = copies.find((span) => span.id === id);
    if (!barrier || !copy) throw new Error(`${id} has a barrier and a copy`);
    return [barrier, copy];
  });
}

test('snapshot: all barriers are up together, and down before anything is copied', async () => {
  const { barriers, copies } = await timelineOf({ strategy: 'snapshot' });
  expect(barriers.map(({ id, cut }) => [id, cut])).toEqual(IDS.map((id) => [id, 1]));
  expect(overlapMs(barriers)).toBeGreaterThanOrEqual(0);
  expect(copies.map(({ id }) => id)).toEqual(IDS);
  expect(copies[0]?.startMs).toBeGreaterThanOrEqual(
    Math.max(...barriers.map(({ releasedMs }) => releasedMs)),
  );
});

test('hold: all barriers are up together, each until its device is copied', async () => {
  const timeline = await timelineOf({ strategy: 'hold' });
  expect(timeline.barriers.map(({ id, cut }) => [id, cut])).toEqual(IDS.map((id) => [id, 1]));
  expect(overlapMs(timeline.barriers)).toBeGreaterThan(900);
  const holdsMs = copyUnderItsBarrier(timeline).map(([barrier, copy]) => {
    expect(barrier.confirmedMs).toBeLessThanOrEqual(copy.startMs);
    expect(barrier.releaseMs).toBe(copy.endMs);
    expect(barrier.parkedRequests).toBe(1);
    return barrier.holdMs;
  });
  // A second for each device, one after the other.
  expect(holdsMs.map((ms) => Math.round(ms / 1000))).toEqual([1, 2, 3]);
});

test('rolling: one barrier after the other, then all together for what changed', async () => {
  const timeline = await timelineOf({ strategy: 'rolling' });
  const { barriers, copies } = timeline;
  expect(barriers.map(({ id, cut }) => [id, cut])).toEqual(
    [...IDS, ...IDS].map((id, i) => [id, Math.min(i + 1, 4)]),
  );
  const single = barriers.slice(0, 3);
  single.forEach((barrier, i) => {
    expect(barrier.cutMs).toBeGreaterThanOrEqual(single[i - 1]?.releasedMs ?? 0);
  });
  for (const [barrier, copy] of copyUnderItsBarrier(timeline)) {
    expect(barrier.confirmedMs).toBeLessThanOrEqual(copy.startMs);
    expect(barrier.releaseMs).toBeGreaterThanOrEqual(copy.endMs);
  }
  const closing = barriers.slice(3);
  expect(Math.min(...closing.map(({ cutMs }) => cutMs))).toBeGreaterThanOrEqual(
    single[2]?.releasedMs ?? Infinity,
  );
  expect(overlapMs(closing)).toBeGreaterThanOrEqual(0);
  expect(copies.map(({ id }) => id)).toEqual([...IDS, ...IDS]);
  expect(copies.slice(0, 3).map(({ totalBytes }) => totalBytes)).toEqual(IDS.map(() => 4 * MiB));
  // The device that was copied first has changed for longest.
  const changedBytes = copies.slice(3).map(({ totalBytes }) => totalBytes);
  expect(changedBytes).toEqual(changedBytes.toSorted((one, other) => other - one));
  expect(changedBytes[0]).toBeGreaterThan(changedBytes[2] ?? Infinity);
});

test('rolling without its closing cut: no instant has all barriers up', async () => {
  const { barriers } = await timelineOf({ strategy: 'rolling', closingCut: false });
  expect(barriers.map(({ id, cut }) => [id, cut])).toEqual(IDS.map((id, i) => [id, i + 1]));
  expect(overlapMs(barriers)).toBeLessThan(0);
});

test.each<Kind>([
  { strategy: 'snapshot' },
  { strategy: 'hold' },
  { strategy: 'rolling' },
  { strategy: 'rolling', closingCut: false },
])('%j: no write waited longer than the certificate says that one could have', async (kind) => {
  const { timeline, cut } = await backUp(kind);
  const barriers = timeline?.barriers ?? [];
  const longestWaitMs = Math.max(...barriers.map(({ longestParkMs }) => longestParkMs));
  expect(longestStallMs(cut)).toBeGreaterThanOrEqual(longestWaitMs);
  // Nor is it more than the sum of all that could be waited for.
  expect(longestStallMs(cut)).toBeLessThanOrEqual(barriers.reduce((sum, { holdMs }) => sum + holdMs, 0));
  if (kind.strategy !== 'rolling' || kind.closingCut === false) return expect(cut.firstPass).toBeUndefined();
  expect(cut.firstPass).toMatchObject(
    barriers.slice(0, IDS.length).map(({ id, holdMs, longestParkMs }) => ({ id, holdMs, longestParkMs })),
  );
});

test.each(['snapshot', 'hold', 'rolling'] as const)(
  '%s: says of the last cut what its certificate says',
  async (strategy) => {
    const { timeline, cut } = await backUp({ strategy });
    expect(timeline?.barriers.slice(-3)).toMatchObject(
      cut.servers
        .toSorted((one, other) => one.id.localeCompare(other.id))
        .map(({ id, holdMs, parkedRequests, longestParkMs }) => ({
          id,
          holdMs,
          parkedRequests,
          longestParkMs,
        })),
    );
  },
);

test('a copy is a curve of few points that goes up from nothing to all, as fast as the copy was', async () => {
  const { copies } = await timelineOf({ strategy: 'snapshot' });
  for (const { startMs, endMs, totalBytes, points } of copies) {
    expect(points.length).toBeGreaterThan(40);
    expect(points.length).toBeLessThanOrEqual(102);
    expect(points[0]).toEqual([startMs, 0]);
    expect(points.at(-1)).toEqual([endMs, totalBytes]);
    for (const [i, [atMs, doneBytes]] of points.entries()) {
      const [beforeMs, bytesBefore] = points[i - 1] ?? [startMs, 0];
      expect(atMs).toBeGreaterThanOrEqual(beforeMs);
      expect(doneBytes).toBeGreaterThanOrEqual(bytesBefore);
      // Three leaves of 1 MiB may be under way.
      const evenly = ((atMs - startMs) / (endMs - startMs)) * totalBytes;
      expect(Math.abs(doneBytes - evenly)).toBeLessThanOrEqual(3 * MiB);
    }
  }
});

test('nothing is noted that nobody asked for', async () => {
  expect(await backUp({ strategy: 'snapshot', timeline: false })).not.toHaveProperty('timeline');
});
