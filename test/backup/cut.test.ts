import { describe, expect, test } from 'vitest';
import { GroupCut, type GroupCutOptions } from '#src/backup/cut';
import { MemoryDevice } from '#src/devices/memory';
import type {
  CutConfirmation,
  CutRequest,
  CutTicket,
  ReleaseAnswer,
  ServerControl,
} from '#src/servers/control';
import { StorageServer } from '#src/servers/server';
import { GatedDevice } from '../support/gated-device.js';
import { isSettled, ManualClock, turns } from '../support/manual-clock.js';

const BLOCK = 4096;

interface Group {
  clock: ManualClock;
  servers: StorageServer[];
  devices: GatedDevice[];
  options: GroupCutOptions;
}

function group(count: number): Group {
  const clock = new ManualClock();
  const devices = Array.from({ length: count }, () => new GatedDevice(8 * BLOCK));
  const servers = devices.map((device, i) => new StorageServer({ id: `s${i}`, device, clock }));
  return {
    clock,
    servers,
    devices,
    options: { clock, fixedBy: 'snapshot', blockSizeBytes: BLOCK, maxStallMs: 1000 },
  };
}

async function allDown(servers: readonly ServerControl[]): Promise<boolean> {
  const statuses = await Promise.all(servers.map((server) => server.status()));
  return statuses.every((status) => !status.barrierUp);
}

/** A server whose calls a test may intercept, standing in for one behind a network. */
class Intercepted implements ServerControl {
  constructor(
    readonly inner: StorageServer,
    readonly on: {
      cut?: (request: CutRequest) => Promise<CutConfirmation>;
      release?: (ticket: CutTicket) => Promise<ReleaseAnswer>;
    },
  ) {}
  get id(): string {
    return this.inner.id;
  }
  get sizeBytes(): number {
    return this.inner.sizeBytes;
  }
  get identities(): readonly string[] {
    return this.inner.identities;
  }
  status = () => this.inner.status();
  renew = (ticket: CutTicket, leaseMs: number) => this.inner.renew(ticket, leaseMs);
  stopTracking = (epoch: number) => this.inner.stopTracking(epoch);
  cut = (request: CutRequest) => this.on.cut?.(request) ?? this.inner.cut(request);
  release = (ticket: CutTicket) => this.on.release?.(ticket) ?? this.inner.release(ticket);
}

describe('cut-and-hold', () => {
  test('releases no server before all have confirmed', async () => {
    const { servers, devices, options } = group(3);
    const events: string[] = [];
    const watched = servers.map(
      (server) =>
        new Intercepted(server, {
          cut: async (request) => {
            const confirmation = await server.cut(request);
            events.push(`confirmed ${server.id}`);
            return confirmation;
          },
          release: (ticket) => {
            events.push(`release ${server.id}`);
            return server.release(ticket);
          },
        }),
    );
    devices[1]?.shut();
    const write = servers[1]?.client.write(0, new Uint8Array(1));
    await turns();
    const raising = GroupCut.raise(watched, options);
    expect(await isSettled(raising)).toBe(false);
    expect(events).toEqual(['confirmed s0', 'confirmed s2']);
    devices[1]?.open();
    await write;
    await using cut = await raising;
    // All barriers are up together at this point.
    for (const server of servers) expect((await server.status()).barrierUp).toBe(true);
    await cut.finish();
    expect(events.slice(3)).toEqual(['release s0', 'release s1', 'release s2']);
    for (const source of cut.takeSources().values()) await source.close();
  });

  test('certifies per server the epoch, the hold and the parked writes, and for the group the stall and the overlap', async () => {
    const { servers, options, clock } = group(2);
    await using cut = await GroupCut.raise(servers, options);
    await clock.advance(5);
    const write = servers[0]?.client.write(0, new Uint8Array(1));
    await clock.advance(20);
    const certificate = await cut.finish();
    await write;
    expect(certificate).toEqual({
      group: { stallMs: 25, overlapMs: 25 },
      servers: [
        { id: 's0', epoch: 1, heldWithoutBreak: true, holdMs: 25, parkedRequests: 1, longestParkMs: 20 },
        { id: 's1', epoch: 1, heldWithoutBreak: true, holdMs: 25, parkedRequests: 0, longestParkMs: 0 },
      ],
    });
  });

  test('takes an epoch higher than any server has seen', async () => {
    const { servers, options } = group(2);
    await servers[1]?.cut({
      epoch: 41,
      coordinator: 'x',
      leaseMs: 1,
      fixedBy: 'barrier',
      blockSizeBytes: BLOCK,
    });
    await using cut = await GroupCut.raise(servers, options);
    expect(cut.ticket.epoch).toBe(42);
  });
});

describe('a cut is void', () => {
  test('when one server lost its power during it', async () => {
    const { servers, options } = group(3);
    await using cut = await GroupCut.raise(servers, options);
    await servers[2]?.powerCut({ seed: 1 });
    await expect(cut.finish()).rejects.toMatchObject({ code: 'CUT_VOID', device: 's2' });
    expect(await allDown(servers)).toBe(true);
  });

  test('when one lease ran out, though the server is up again', async () => {
    const { servers, options, clock } = group(2);
    // This server sees a shorter lease than it was sent, as one with a fast clock would.
    const hasty = new Intercepted(servers[0] as StorageServer, {
      cut: (request) => (servers[0] as StorageServer).cut({ ...request, leaseMs: 10 }),
    });
    await using cut = await GroupCut.raise([hasty, servers[1] as StorageServer], options);
    await clock.advance(11);
    await expect(cut.finish()).rejects.toMatchObject({ code: 'CUT_VOID', device: 's0' });
    expect(await allDown(servers)).toBe(true);
  });

  test('when one answer to a release does not come', async () => {
    const { servers, options } = group(2);
    const lost = new Intercepted(servers[1] as StorageServer, {
      release: () => Promise.reject(new Error('connection reset')),
    });
    await using cut = await GroupCut.raise([servers[0] as StorageServer, lost], options);
    await expect(cut.finish()).rejects.toMatchObject({ code: 'CUT_VOID', device: 's1' });
  });

  test('when a server never answers the release', async () => {
    const { servers, options, clock } = group(2);
    const silent = new Intercepted(servers[1] as StorageServer, { release: () => new Promise(() => {}) });
    await using cut = await GroupCut.raise([servers[0] as StorageServer, silent], options);
    const refused = expect(cut.finish()).rejects.toMatchObject({ code: 'STALL_BUDGET_EXCEEDED' });
    await clock.advance(1001);
    await refused;
    expect(await allDown(servers)).toBe(true);
  });

  test('when another coordinator took over', async () => {
    const { servers, options } = group(2);
    await using first = await GroupCut.raise(servers, options);
    await using second = await GroupCut.raise(servers, options);
    await expect(first.finish()).rejects.toMatchObject({ code: 'CUT_VOID' });
    expect((await second.finish()).group.stallMs).toBe(0);
  });
});

describe('the stall budget', () => {
  test('fails the cut when a server does not drain in time, and brings every barrier down', async () => {
    const { servers, devices, options, clock } = group(3);
    devices[1]?.shut();
    const slow = servers[1]?.client.write(0, new Uint8Array(1));
    await turns();
    const raising = GroupCut.raise(servers, { ...options, maxStallMs: 50 });
    const refused = expect(raising).rejects.toMatchObject({ code: 'STALL_BUDGET_EXCEEDED', device: 's1' });
    await turns();
    const parked = servers[0]?.client.write(0, new Uint8Array(1));
    await clock.advance(50);
    await refused;
    await parked;
    expect(await allDown(servers)).toBe(true);
    devices[1]?.open();
    await slow;
    await turns();
    for (const server of servers) expect((await server.status()).snapshots).toBe(0);
  });

  test('fails a cut that was held too long after it was confirmed', async () => {
    const { servers, options, clock } = group(2);
    await using cut = await GroupCut.raise(servers, { ...options, maxStallMs: 50 });
    await clock.advance(51);
    expect(cut.signal.aborted).toBe(true);
    await expect(cut.finish()).rejects.toMatchObject({ code: 'STALL_BUDGET_EXCEEDED' });
    expect(await allDown(servers)).toBe(true);
  });

  test('absent: leases are renewed for as long as the cut is held', async () => {
    const { servers, clock } = group(2);
    await using cut = await GroupCut.raise(servers, { clock, fixedBy: 'barrier', blockSizeBytes: BLOCK });
    await clock.advance(120_000);
    await cut.release(servers[0] as StorageServer);
    await clock.advance(120_000);
    const certificate = await cut.finish();
    expect(certificate.servers.map((server) => server.holdMs)).toEqual([120_000, 240_000]);
    expect(clock.timers).toBe(0);
  });
});

describe('a cut that fails leaves nothing behind', () => {
  test('when one server refuses it', async () => {
    const { servers, options } = group(3);
    const refusing = new Intercepted(servers[1] as StorageServer, {
      cut: () => Promise.reject(new Error('no route to host')),
    });
    const all = [servers[0] as StorageServer, refusing, servers[2] as StorageServer];
    await expect(GroupCut.raise(all, options)).rejects.toThrow('no route to host');
    expect(await allDown(servers)).toBe(true);
    await turns();
    for (const server of servers) expect((await server.status()).snapshots).toBe(0);
  });

  test('when a server confirms long after the cut was given up', async () => {
    const { servers, options } = group(2);
    let arrive = (): void => {};
    const arrival = new Promise<void>((resolve) => (arrive = resolve));
    const refusing = new Intercepted(servers[0] as StorageServer, {
      cut: () => Promise.reject(new Error('no route to host')),
    });
    const late = new Intercepted(servers[1] as StorageServer, {
      cut: async (request) => {
        const confirmation = await (servers[1] as StorageServer).cut(request);
        await arrival;
        return confirmation;
      },
    });
    await expect(GroupCut.raise([refusing, late], options)).rejects.toThrow('no route to host');
    expect(await servers[1]?.status()).toMatchObject({ barrierUp: false, snapshots: 1 });
    arrive();
    await turns();
    expect(await servers[1]?.status()).toMatchObject({ snapshots: 0 });
  });

  test('when it is cancelled while servers drain', async () => {
    const { servers, devices, options, clock } = group(2);
    devices[0]?.shut();
    const write = servers[0]?.client.write(0, new Uint8Array(1));
    await turns();
    const cancel = new AbortController();
    const raising = GroupCut.raise(servers, { ...options, signal: cancel.signal });
    await turns();
    cancel.abort();
    await expect(raising).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(await allDown(servers)).toBe(true);
    devices[0]?.open();
    await write;
    expect(clock.timers).toBe(0);
  });

  test('when it is cancelled after it was to track changes', async () => {
    const { servers, options } = group(2);
    const cancel = new AbortController();
    const late = new Intercepted(servers[1] as StorageServer, {
      cut: async (request) => {
        const confirmation = await (servers[1] as StorageServer).cut(request);
        cancel.abort();
        return confirmation;
      },
    });
    const all = [servers[0] as StorageServer, late];
    const raising = GroupCut.raise(all, { ...options, trackChanges: true, signal: cancel.signal });
    await expect(raising).rejects.toMatchObject({ code: 'CANCELLED' });
    for (const server of servers) {
      const ticket = { epoch: 2, coordinator: 'x' };
      const since = server.cut({
        ...ticket,
        leaseMs: 1,
        fixedBy: 'barrier',
        blockSizeBytes: BLOCK,
        changedSinceEpoch: 1,
      });
      await expect(since).rejects.toMatchObject({ code: 'CUT_VOID' });
      await server.release(ticket);
    }
  });

  test('when two coordinators arrive at the same epoch, one of them wins or none, and clients go on', async () => {
    const { servers, options } = group(4);
    const results = await Promise.allSettled([
      GroupCut.raise(servers, options).then((cut) => cut.finish()),
      GroupCut.raise([...servers].reverse(), options).then((cut) => cut.finish()),
    ]);
    const won = results.filter((result) => result.status === 'fulfilled');
    expect(won.length).toBeLessThanOrEqual(1);
    expect(await allDown(servers)).toBe(true);
    await Promise.all(servers.map((server) => server.client.write(0, new Uint8Array(1))));
  });
});

test('an unconfirmed server behind a lost message still lowers its barrier by its lease', async () => {
  const clock = new ManualClock();
  const server = new StorageServer({ id: 'a', device: new MemoryDevice(BLOCK), clock });
  // Its confirmation and the release to it are lost.
  const cutOff = new Intercepted(server, {
    cut: (request) => server.cut(request).then(() => new Promise(() => {})),
    release: () => Promise.reject(new Error('unreachable')),
  });
  const raising = GroupCut.raise([cutOff], {
    clock,
    fixedBy: 'snapshot',
    blockSizeBytes: BLOCK,
    maxStallMs: 100,
  });
  const refused = expect(raising).rejects.toMatchObject({ code: 'STALL_BUDGET_EXCEEDED' });
  await turns();
  const write = server.client.write(0, new Uint8Array(1));
  await clock.advance(100);
  await refused;
  await write;
});
