import { describe, expect, test } from 'vitest';
import { FaultyDevice } from '#src/devices/faulty';
import { MemoryDevice } from '#src/devices/memory';
import { VolatileCacheDevice } from '#src/devices/volatile-cache';
import type { CutRequest, ServerControl } from '#src/servers/control';
import { StorageServer } from '#src/servers/server';
import { GatedDevice } from '../support/gated-device.js';
import { isSettled, ManualClock, turns } from '../support/manual-clock.js';

const BLOCK = 4096;

function request(epoch: number, changes: Partial<CutRequest> = {}): CutRequest {
  return { epoch, coordinator: 'test', leaseMs: 1000, fixedBy: 'barrier', blockSizeBytes: BLOCK, ...changes };
}

function filled(value: number, length = 512): Uint8Array {
  return new Uint8Array(length).fill(value);
}

async function byteAt(server: StorageServer, offset: number): Promise<number | undefined> {
  const byte = new Uint8Array(1);
  await server.client.read(offset, byte);
  return byte[0];
}

function start(device = new GatedDevice(64 * BLOCK)): {
  clock: ManualClock;
  device: GatedDevice;
  server: StorageServer;
} {
  const clock = new ManualClock();
  return { clock, device, server: new StorageServer({ id: 'a', device, clock }) };
}

const ticket = (epoch: number): { epoch: number; coordinator: string } => ({ epoch, coordinator: 'test' });

describe('while the barrier is up', () => {
  test('writes, trims and write-zeroes are parked before they touch anything', async () => {
    const { server, device } = start();
    await server.client.write(0, filled(1));
    await server.cut(request(1));
    device.log.length = 0;
    const parked = [
      server.client.write(0, filled(2)),
      server.client.trim(BLOCK, BLOCK),
      server.client.writeZeroes(512, 512),
    ];
    for (const one of parked) expect(await isSettled(one)).toBe(false);
    expect(device.log).toEqual([]);
    expect(await server.status()).toMatchObject({ barrierUp: true, parked: 3, inFlight: 0 });
    expect(await byteAt(server, 0)).toBe(1);
    await server.release(ticket(1));
    await Promise.all(parked);
    expect(await byteAt(server, 0)).toBe(2);
  });

  test('reads, flushes and status requests are answered', async () => {
    const { server } = start();
    await server.cut(request(1));
    expect(await byteAt(server, 0)).toBe(0);
    await server.client.flush();
    expect((await server.client.allocation(0, BLOCK)).length).toBe(1);
    expect((await server.status()).barrierUp).toBe(true);
  });

  test('a request out of range is refused at once, not parked', async () => {
    const { server } = start();
    await server.cut(request(1));
    await expect(server.client.write(64 * BLOCK, filled(1))).rejects.toMatchObject({ code: 'OUT_OF_RANGE' });
  });

  test('the word that other threads see is 1, and 0 before and after', async () => {
    const { server } = start();
    // Memory has no native source, so the word is looked at through a device that claims to have one.
    const device = Object.assign(new MemoryDevice(BLOCK), { nativeSource: { fd: 0 } });
    const seen = new StorageServer({ id: 'n', device });
    const { source } = await seen.cut(request(1));
    const word = source.native?.barrier;
    expect(word && Atomics.load(word, 0)).toBe(1);
    await seen.release(ticket(1));
    expect(word && Atomics.load(word, 0)).toBe(0);
    await server.close();
  });
});

describe('release', () => {
  test('admits what was parked in the order in which it came, before anything later', async () => {
    const { server, device } = start();
    await server.cut(request(1));
    const order = [5, 3, 9, 1, 7].map((sector) => server.client.write(sector * 512, filled(sector)));
    await turns();
    const released = server.release(ticket(1));
    const later = server.client.write(0, filled(99));
    await Promise.all([...order, released, later]);
    expect(device.log).toEqual([5, 3, 9, 1, 7, 0].map((sector) => `write ${sector * 512}+512`));
  });

  test('says that the barrier was held, how long, and what it parked; again when asked again', async () => {
    const { server, clock } = start();
    await server.cut(request(1));
    await clock.advance(10);
    const write = server.client.write(0, filled(1));
    await clock.advance(30);
    const answer = await server.release(ticket(1));
    expect(answer).toEqual({ heldWithoutBreak: true, holdMs: 40, parkedRequests: 1, longestParkMs: 30 });
    await write;
    expect(await server.release(ticket(1))).toEqual(answer);
  });

  test('of a cut that is not confirmed says so and aborts the cut', async () => {
    const { server, device } = start();
    device.shut();
    const write = server.client.write(0, filled(1));
    await turns();
    const cut = server.cut(request(1));
    expect(await isSettled(cut)).toBe(false);
    expect((await server.release(ticket(1))).heldWithoutBreak).toBe(false);
    await expect(cut).rejects.toMatchObject({ code: 'CUT_ABORTED' });
    device.open();
    await write;
  });

  test('by a coordinator of the same epoch that was refused lowers nothing', async () => {
    const { server } = start();
    await server.cut(request(1));
    const other = { epoch: 1, coordinator: 'other' };
    await expect(server.cut(request(1, other))).rejects.toMatchObject({ code: 'EPOCH_STALE' });
    expect((await server.release(other)).heldWithoutBreak).toBe(false);
    expect((await server.status()).barrierUp).toBe(true);
    expect((await server.release(ticket(1))).heldWithoutBreak).toBe(true);
  });

  test('of an epoch never seen cannot be vouched for', async () => {
    const { server } = start();
    expect(await server.release(ticket(7))).toMatchObject({ heldWithoutBreak: false });
  });
});

describe('drain', () => {
  test('a cut is confirmed only when every write admitted before it has finished', async () => {
    const { server, device } = start();
    device.shut();
    const writes = [server.client.write(0, filled(1)), server.client.write(BLOCK, filled(2))];
    await turns();
    const cut = server.cut(request(1));
    expect(await isSettled(cut)).toBe(false);
    expect((await server.status()).inFlight).toBe(2);
    device.open();
    await cut;
    await Promise.all(writes);
    expect((await server.status()).inFlight).toBe(0);
  });

  test('overlooks no write that was parked and has just been admitted', async () => {
    const { server, device } = start();
    await server.cut(request(1));
    const parked = server.client.write(0, filled(1));
    await turns();
    device.shut();
    // The release admits the write; the next cut comes before the write had a turn to run.
    void server.release(ticket(1));
    const cut = server.cut(request(2));
    expect(await isSettled(cut)).toBe(false);
    device.open();
    await Promise.all([cut, parked]);
    expect(await byteAt(server, 0)).toBe(1);
  });

  test('a write that fails is drained too', async () => {
    const { server } = start(
      new (class extends GatedDevice {
        override write(): Promise<void> {
          return Promise.reject(new Error('broken disk'));
        }
      })(BLOCK),
    );
    await expect(server.client.write(0, filled(1))).rejects.toThrow('broken disk');
    await server.cut(request(1));
  });
});

describe('lease', () => {
  test('a barrier that nobody releases comes down by itself, and its release says so', async () => {
    const { server, clock } = start();
    await server.cut(request(1, { leaseMs: 200 }));
    const write = server.client.write(0, filled(1));
    await clock.advance(199);
    expect(await isSettled(write)).toBe(false);
    await clock.advance(1);
    await write;
    const answer = await server.release(ticket(1));
    expect(answer).toMatchObject({ heldWithoutBreak: false, holdMs: 200 });
    expect(answer.reason).toContain('lease');
  });

  test('a renewal counts from when it is made', async () => {
    const { server, clock } = start();
    await server.cut(request(1, { leaseMs: 200 }));
    await clock.advance(150);
    await server.renew(ticket(1), 200);
    await clock.advance(199);
    expect((await server.status()).barrierUp).toBe(true);
    await clock.advance(1);
    expect((await server.status()).barrierUp).toBe(false);
    await expect(server.renew(ticket(1), 200)).rejects.toMatchObject({ code: 'EPOCH_STALE' });
  });

  test('runs while the cut still drains', async () => {
    const { server, device, clock } = start();
    device.shut();
    const write = server.client.write(0, filled(1));
    await turns();
    const cut = server.cut(request(1, { leaseMs: 50 }));
    const refused = expect(cut).rejects.toMatchObject({ code: 'CUT_ABORTED' });
    await clock.advance(50);
    await refused;
    expect((await server.status()).barrierUp).toBe(false);
    device.open();
    await write;
  });

  test('of a barrier that came down does not touch the next one', async () => {
    const { server, clock } = start();
    await server.cut(request(1, { leaseMs: 100 }));
    await server.release(ticket(1));
    await clock.advance(50);
    await server.cut(request(2, { leaseMs: 100 }));
    await clock.advance(60);
    expect((await server.status()).barrierUp).toBe(true);
    expect(clock.timers).toBe(1);
  });
});

test('a cut that the server itself breaks is not vouched for, and what it parked goes on', async () => {
  const { server } = start();
  await using source = (await server.cut(request(1))).source;
  const write = server.client.write(0, filled(1));
  expect(await isSettled(write)).toBe(false);
  server.breakCut('enough');
  await write;
  await expect(source.assertIntact()).rejects.toMatchObject({ code: 'CUT_VOID' });
  expect(await server.release(ticket(1))).toMatchObject({ heldWithoutBreak: false, reason: 'enough' });
  // One that was released is not touched.
  await server.cut(request(2));
  await server.release(ticket(2));
  server.breakCut('too late');
  expect(await server.release(ticket(2))).toMatchObject({ heldWithoutBreak: true });
});

describe('fencing', () => {
  test('an epoch that is not higher than the last one seen is refused', async () => {
    const { server } = start();
    await server.cut(request(5));
    await server.release(ticket(5));
    for (const epoch of [5, 4, 0, -1, NaN, 5.5]) {
      await expect(server.cut(request(epoch))).rejects.toMatchObject({ code: 'EPOCH_STALE' });
    }
    await server.cut(request(6));
  });

  test('a newer epoch takes over: the barrier stays up, the older cut is not vouched for', async () => {
    const { server } = start();
    await server.cut(request(1));
    const write = server.client.write(0, filled(1));
    const { source } = await server.cut(request(2, { coordinator: 'newer' }));
    expect((await server.release(ticket(1))).heldWithoutBreak).toBe(false);
    expect(await isSettled(write)).toBe(false);
    await source.assertIntact();
    expect((await server.release({ epoch: 2, coordinator: 'newer' })).heldWithoutBreak).toBe(true);
    await write;
  });

  test('a newer epoch aborts an older cut that still drains, and the older source is not intact', async () => {
    const { server, device } = start();
    const { source } = await server.cut(request(1));
    device.shut();
    await server.cut(request(2));
    await expect(source.assertIntact()).rejects.toMatchObject({ code: 'CUT_VOID' });
  });
});

describe('power cut', () => {
  test('refuses what is parked or in flight, breaks the hold and comes back', async () => {
    const { server, device } = start();
    device.shut();
    const inFlight = server.client.write(0, filled(1));
    await turns();
    const cut = server.cut(request(1));
    const parked = server.client.write(512, filled(2));
    const power = server.powerCut({ seed: 1 });
    await expect(server.client.read(0, new Uint8Array(1))).rejects.toMatchObject({ code: 'POWER_CUT' });
    await expect(cut).rejects.toMatchObject({ code: 'CUT_ABORTED' });
    await expect(parked).rejects.toMatchObject({ code: 'POWER_CUT' });
    // The write in flight must not reach the device once the power is back.
    expect(await isSettled(power)).toBe(false);
    device.open();
    await expect(inFlight).rejects.toMatchObject({ code: 'POWER_CUT' });
    await power;
    expect(await server.release(ticket(1))).toMatchObject({ heldWithoutBreak: false });
    await server.client.write(512, filled(3));
    expect(await byteAt(server, 512)).toBe(3);
  });
});

describe('a cut whose barrier comes down in the turn in which its drain ends', () => {
  test.for([
    ['released', (server: StorageServer) => server.release(ticket(1))],
    ['without power', (server: StorageServer) => server.powerCut({ seed: 1 })],
    ['closed', (server: StorageServer) => server.close()],
  ] as const)('%s: is aborted and leaves nothing', async ([, action]) => {
    const { server } = start();
    const cut = server.cut(request(1, { fixedBy: 'snapshot', trackChanges: true }));
    const refused = expect(cut).rejects.toMatchObject({ code: 'CUT_ABORTED' });
    await action(server);
    await refused;
    expect(await server.status()).toMatchObject({ barrierUp: false, snapshots: 0 });
  });

  test('though a parked write is admitted at once', async () => {
    const { server } = start();
    const refused = expect(server.cut(request(1))).rejects.toMatchObject({ code: 'CUT_ABORTED' });
    const write = server.client.write(0, filled(1));
    await server.release(ticket(1));
    await Promise.all([refused, write]);
    expect(await byteAt(server, 0)).toBe(1);
  });
});

describe('the power comes back', () => {
  test('also when the medium fails under the cache, though the cut then says so', async () => {
    const medium = new FaultyDevice(new MemoryDevice(64 * BLOCK), { clock: new ManualClock() });
    const cache = new VolatileCacheDevice(medium);
    await using server = new StorageServer({ id: 'a', device: cache, cache });
    const fault = medium.inject({ operation: 'any' });
    await server.client.write(0, filled(1));
    await expect(server.powerCut({ seed: 1 })).rejects.toMatchObject({ code: 'INJECTED_FAULT' });
    fault.release();
    await server.client.write(0, filled(2));
    expect(await byteAt(server, 0)).toBe(2);
  });

  test('with no request left from before: what was delayed on its way is cut with the rest', async () => {
    const clock = new ManualClock();
    const cache = new VolatileCacheDevice(new MemoryDevice(64 * BLOCK));
    const device = new FaultyDevice(cache, { clock });
    await using server = new StorageServer({ id: 'a', device, cache, clock });
    // Of many sectors some are always lost; were they to reach the cache after the cut, all would be there.
    device.inject({ operation: 'write', fault: { delayMs: 50 } });
    const writes = Array.from({ length: 64 }, (_, i) =>
      server.client.write(i * 512, filled(7)).catch(() => {}),
    );
    await turns();
    const power = server.powerCut({ seed: 1 });
    await clock.advance(60);
    await Promise.all([power, ...writes]);
    const kept = await Promise.all(Array.from({ length: 64 }, (_, i) => byteAt(server, i * 512)));
    expect(new Set(kept)).toEqual(new Set([0, 7]));
  });

  test('but not to a server that was closed meanwhile', async () => {
    const { server, device } = start();
    device.shut();
    const write = server.client.write(0, filled(1)).catch(() => {});
    await turns();
    const power = server.powerCut({ seed: 1 });
    const closing = server.close();
    device.open();
    await Promise.all([write, power, closing]);
    await expect(server.cut(request(1))).rejects.toMatchObject({ code: 'DEVICE_CLOSED' });
  });
});

test('a closed server refuses everything and strands nobody', async () => {
  const { server } = start();
  await server.cut(request(1));
  const parked = server.client.write(0, filled(1));
  await turns();
  await server.close();
  await expect(parked).rejects.toMatchObject({ code: 'DEVICE_CLOSED' });
  await expect(server.client.read(0, new Uint8Array(1))).rejects.toMatchObject({ code: 'DEVICE_CLOSED' });
  await expect((server as ServerControl).cut(request(2))).rejects.toMatchObject({ code: 'DEVICE_CLOSED' });
});
