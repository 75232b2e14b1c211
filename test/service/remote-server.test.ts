import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { NbdDevice, RemoteServer, type Clock } from 'cofferdam';
import { MemoryDevice } from '#src/devices/memory';
import { realClock } from '#src/runtime/clock';
import type { CutRequest, CutSource, ServerControl } from '#src/servers/control';
import { StorageServer } from '#src/servers/server';
import type { CutCalls } from '#src/service/cut-calls';
import { LEASE_MS } from '#src/service/leases';
import { RemoteCuts } from '#src/service/remote-cuts';
import { randomBytes, readBytes } from '../support/bytes.js';
import { ManualClock } from '../support/manual-clock.js';
import { memory, serveCluster } from './cluster.js';

const BLOCK = 4096;
const sizeBytes = 64 * BLOCK;

/** A server as a coordinator sees it, and the device as its clients do. */
interface Subject extends AsyncDisposable {
  control: ServerControl;
  server: StorageServer;
}

async function local(clock?: Clock): Promise<Subject> {
  const server = new StorageServer({
    id: 'a',
    device: new MemoryDevice(sizeBytes),
    ...(clock ? { clock } : {}),
  });
  return { control: server, server, [Symbol.asyncDispose]: () => server.close() };
}

async function remote(clock?: Clock): Promise<Subject> {
  const served = await serveCluster({ servers: [memory('a', sizeBytes)] }, clock);
  const [status] = (await served.client.status()).servers;
  if (!status) throw new Error('nothing is served');
  return {
    control: new RemoteServer(served.client, status),
    server: served.service.cluster.server('a'),
    [Symbol.asyncDispose]: () => served[Symbol.asyncDispose](),
  };
}

const ticket = { epoch: 1, coordinator: 'one' };
const request: CutRequest = { ...ticket, leaseMs: 60_000, fixedBy: 'snapshot', blockSizeBytes: BLOCK };

function write(server: StorageServer, block: number, value: number): Promise<void> {
  return server.client.write(block * BLOCK, new Uint8Array(BLOCK).fill(value));
}

/** Long enough for what crosses a socket twice. */
const settle = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 30));

describe.each([
  ['in this process', local],
  ['in another process', remote],
] as const)('a server %s', (_, open) => {
  test('has its ID and its size', async () => {
    await using subject = await open();
    expect(subject.control).toMatchObject({ id: 'a', sizeBytes });
    expect(await subject.control.status()).toMatchObject({ id: 'a', barrierUp: false, epoch: 0 });
  });

  test('parks writes from a cut to its release, and vouches for it', async () => {
    await using subject = await open();
    const { control, server } = subject;
    const { epoch, source } = await control.cut(request);
    expect(epoch).toBe(1);
    let isWritten = false;
    const writing = write(server, 0, 1).then(() => (isWritten = true));
    await settle();
    expect(isWritten).toBe(false);
    expect(await control.status()).toMatchObject({ barrierUp: true, parked: 1 });
    const answer = await control.release(ticket);
    expect(answer).toMatchObject({ heldWithoutBreak: true, parkedRequests: 1 });
    await writing;
    // A repeated release answers the same.
    expect(await control.release(ticket)).toEqual(answer);
    await source.close();
  });

  test('shows the contents as of the cut while writes go on', async () => {
    await using subject = await open();
    const { control, server } = subject;
    const before = randomBytes(sizeBytes, 1);
    await server.client.write(0, before);
    await using source = (await control.cut(request)).source;
    await control.release(ticket);
    await server.client.write(0, new Uint8Array(sizeBytes / 2));
    await server.client.trim(sizeBytes / 2, BLOCK);
    expect(Buffer.compare(await readBytes(source.device), before)).toBe(0);
    await source.assertIntact();
    await expect(source.device.write(0, new Uint8Array(1))).rejects.toMatchObject({ code: 'READ_ONLY' });
  });

  test('under the barrier alone the contents hold until it is released, and no longer', async () => {
    await using subject = await open();
    const { control, server } = subject;
    await write(server, 0, 5);
    const { source } = await control.cut({ ...request, fixedBy: 'barrier' });
    expect((await readBytes(source.device, 0, 1))[0]).toBe(5);
    await source.assertIntact();
    await control.release(ticket);
    await expect(source.assertIntact()).rejects.toMatchObject({ code: 'CUT_VOID' });
    await expect(source.device.read(0, new Uint8Array(1))).rejects.toThrow();
    await source.close();
  });

  test('refuses an epoch that is not newer, and nobody else can lower a barrier', async () => {
    await using subject = await open();
    const { control } = subject;
    const { source } = await control.cut(request);
    await expect(control.cut({ ...request, coordinator: 'two' })).rejects.toMatchObject({
      code: 'EPOCH_STALE',
    });
    expect(await control.release({ epoch: 1, coordinator: 'two' })).toMatchObject({
      heldWithoutBreak: false,
    });
    expect(await control.status()).toMatchObject({ barrierUp: true });
    await expect(control.renew({ epoch: 1, coordinator: 'two' }, 1000)).rejects.toMatchObject({
      code: 'EPOCH_STALE',
    });
    expect(await control.release(ticket)).toMatchObject({ heldWithoutBreak: true });
    await source.close();
  });

  test('a newer cut breaks an older one', async () => {
    await using subject = await open();
    const { control } = subject;
    const first = await control.cut(request);
    const second = await control.cut({ ...request, epoch: 2 });
    expect(await control.release(ticket)).toMatchObject({ heldWithoutBreak: false });
    expect(await control.release({ ...ticket, epoch: 2 })).toMatchObject({ heldWithoutBreak: true });
    await first.source.close();
    await second.source.close();
  });

  test('a lease that is not renewed lowers the barrier', async () => {
    await using subject = await open();
    const { control, server } = subject;
    const { source } = await control.cut({ ...request, leaseMs: 100 });
    await control.renew(ticket, 200);
    await write(server, 0, 1);
    expect(await control.release(ticket)).toMatchObject({
      heldWithoutBreak: false,
      reason: expect.stringContaining('lease'),
    });
    await source.close();
  });

  test('tells exactly the blocks that changed since a cut', async () => {
    await using subject = await open();
    const { control, server } = subject;
    const first = await control.cut({ ...request, trackChanges: true });
    await control.release(ticket);
    await first.source.close();
    await write(server, 3, 1);
    await write(server, 40, 1);
    const second = await control.cut({ ...request, epoch: 2, changedSinceEpoch: 1 });
    expect([...(second.source.selected ?? [])]).toEqual([1 << 3, 1 << 8]);
    await control.release({ ...ticket, epoch: 2 });
    await second.source.close();
    // They were collected, so they are not known any more.
    await expect(control.cut({ ...request, epoch: 3, changedSinceEpoch: 1 })).rejects.toMatchObject({
      code: 'CUT_VOID',
    });
  });

  test('stops to track changes when asked to', async () => {
    await using subject = await open();
    const { control } = subject;
    const { source } = await control.cut({ ...request, trackChanges: true });
    await control.release(ticket);
    await source.close();
    await control.stopTracking(1);
    await control.stopTracking(1);
    await expect(control.cut({ ...request, epoch: 2, changedSinceEpoch: 1 })).rejects.toMatchObject({
      code: 'CUT_VOID',
    });
  });

  test('what was copied needs no pre-images, and can be read no more once it is overwritten', async () => {
    await using subject = await open();
    const { control, server } = subject;
    await using source = (await control.cut(request)).source;
    await control.release(ticket);
    source.markCopied(0, 8);
    // From another process it is told a little later.
    await new Promise((resolve) => setTimeout(resolve, 500));
    await write(server, 0, 7);
    await write(server, 8, 7);
    await expect(source.device.read(0, new Uint8Array(BLOCK))).rejects.toThrow();
    await source.device.read(8 * BLOCK, new Uint8Array(BLOCK));
  });

  test('a source that was closed is gone', async () => {
    await using subject = await open();
    const { control } = subject;
    const { source } = await control.cut(request);
    await control.release(ticket);
    await source.close();
    await source.close();
    await expect(source.assertIntact()).rejects.toMatchObject({ code: 'SNAPSHOT_BROKEN' });
    expect(await control.status()).toMatchObject({ snapshots: 0 });
  });

  test('a power cut breaks what was fixed', async () => {
    await using subject = await open();
    const { control, server } = subject;
    const { source } = await control.cut(request);
    await server.powerCut({ seed: 1 });
    expect(await control.release(ticket)).toMatchObject({ heldWithoutBreak: false });
    await expect(source.assertIntact()).rejects.toMatchObject({ code: 'SNAPSHOT_BROKEN' });
    await source.close();
  });
});

test('a server that restarts while its barrier is up vouches for nothing', async () => {
  await using served = await serveCluster({ servers: [memory('a', sizeBytes)] });
  const [status] = (await served.client.status()).servers;
  if (!status) throw new Error('nothing is served');
  const control = new RemoteServer(served.client, status);
  const { source } = await control.cut({ ...request, trackChanges: true });
  await served.restart();
  expect(await control.release(ticket)).toMatchObject({
    heldWithoutBreak: false,
    reason: expect.stringContaining('may have restarted'),
  });
  await expect(source.assertIntact()).rejects.toMatchObject({ code: 'SNAPSHOT_BROKEN' });
  await expect(source.device.read(0, new Uint8Array(512))).rejects.toThrow();
  await expect(control.cut({ ...request, epoch: 2, changedSinceEpoch: 1 })).rejects.toMatchObject({
    code: 'CUT_VOID',
  });
  await source.close();
  await control.stopTracking(1);
});

describe('what cannot be handed out', () => {
  /** The calls of a server whose exports are made as the test says. */
  function callsWith(exportBeside: (cuts: RemoteCuts) => Promise<Disposable>): {
    cuts: RemoteCuts;
    server: StorageServer;
  } {
    const server = new StorageServer({ id: 'a', device: new MemoryDevice(sizeBytes) });
    const cuts: RemoteCuts = new RemoteCuts(
      { cluster: { server: () => server }, exportBeside: () => exportBeside(cuts), uriOf: (name) => name },
      realClock,
    );
    return { cuts, server };
  }

  test('is tracked no further', async () => {
    const { cuts, server } = callsWith(() => Promise.reject(new Error('no port is free')));
    await expect(cuts.cut('a', { ...request, trackChanges: true })).rejects.toThrow('no port is free');
    await server.release(ticket);
    expect((await server.status()).snapshots).toBe(0);
    await expect(server.cut({ ...request, epoch: 2, changedSinceEpoch: 1 })).rejects.toMatchObject({
      code: 'CUT_VOID',
    });
  });

  test('leaves no export behind when the service ends meanwhile', async () => {
    let exported = 0;
    const { cuts } = callsWith(async (ending) => {
      exported++;
      await ending.close();
      return { [Symbol.dispose]: () => void exported-- };
    });
    await expect(cuts.cut('a', request)).rejects.toMatchObject({ code: 'UNKNOWN_SNAPSHOT' });
    expect(exported).toBe(0);
  });
});

test('blocks that the device does not have cannot be told to be copied', async () => {
  await using served = await serveCluster({ servers: [memory('a', sizeBytes)] });
  const { calls } = served.client;
  const { source } = await calls.cut('a', request);
  for (const range of [
    [64, 1],
    [0, 65],
    [2 ** 40, 1],
  ] as [number, number][]) {
    await expect(calls.markCopied(source.lease, [[0, 1], range])).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
    });
  }
  await calls.assertIntact(source.lease);
  await calls.release('a', ticket);
  // Nothing of a refused call counts: block 0 still gets its pre-image.
  await write(served.service.cluster.server('a'), 0, 1);
  await using snapshot = await served.client.openSnapshot(source.uri);
  expect(await readBytes(snapshot, 0, BLOCK)).toEqual(new Uint8Array(BLOCK));
  await calls.closeSource(source.lease);
});

test('a cut that is made while the service ends keeps nothing', async () => {
  await using served = await serveCluster({ servers: [memory('a', sizeBytes)] });
  const cuts = new RemoteCuts(served.service, realClock);
  const late = cuts.cut('a', { ...request, trackChanges: true });
  await Promise.all([cuts.close(), expect(late).rejects.toMatchObject({ code: 'DEVICE_CLOSED' })]);
  expect(await served.service.cluster.server('a').status()).toMatchObject({ snapshots: 0 });
});

describe('a coordinator in another process', () => {
  test('does not keep from an answer what was sent before the service ends', async () => {
    const served = await serveCluster({ servers: [memory('a', sizeBytes)] });
    const { client, service } = served;
    const [status] = (await client.status()).servers;
    if (!status) throw new Error('nothing is served');
    const { source } = await new RemoteServer(client, status).cut(request);
    await using device = await NbdDevice.open(service.uriOf('a'), { reconnectMs: 0 });
    const parked = device.write(0, new Uint8Array(512));
    const outcome = parked.then(
      () => 'answered',
      (error: unknown) => error,
    );
    await expect.poll(async () => (await client.status()).servers[0]?.parked).toBe(1);
    await served[Symbol.asyncDispose]();
    expect(await outcome).toBe('answered');
    await source.close();
  });

  /** Lets what crosses a socket arrive, and time go on, in turns. */
  async function pass(clock: ManualClock, ms: number): Promise<void> {
    for (let passed = 0; passed < ms; passed += 500) {
      await clock.advance(500);
      await settle();
    }
  }

  async function cutWith(clock: ManualClock): Promise<{ subject: Subject; source: CutSource }> {
    const subject = await remote(clock);
    const { source } = await subject.control.cut({ ...request, trackChanges: true });
    await subject.control.release(ticket);
    return { subject, source };
  }

  test('keeps what it was given for as long as it lives', async () => {
    const clock = new ManualClock();
    const { subject, source } = await cutWith(clock);
    await using _subject = subject;
    await pass(clock, 2 * LEASE_MS);
    await source.assertIntact();
    expect(await subject.control.status()).toMatchObject({ snapshots: 1 });
    const { source: changed } = await subject.control.cut({ ...request, epoch: 2, changedSinceEpoch: 1 });
    expect([...(changed.selected ?? [])]).toEqual([0, 0]);
    await changed.close();
    await source.close();
  });

  test('that gave up on a cut does not go on to renew what comes of it', async () => {
    const clock = new ManualClock();
    await using subject = await remote(clock);
    const late = subject.control.cut({ ...request, trackChanges: true });
    const stopping = subject.control.stopTracking(1);
    await (await late).source.close();
    await stopping;
    await subject.control.release(ticket);
    await pass(clock, 2 * LEASE_MS);
    const collecting = subject.control.cut({ ...request, epoch: 2, changedSinceEpoch: 1 });
    await expect(collecting).rejects.toMatchObject({ code: 'CUT_VOID' });
  });

  test('that gave up on a cut before it was confirmed does not renew what comes of it either', async () => {
    const clock = new ManualClock();
    let confirm = (): void => {};
    const confirmed = new Promise<void>((resolve) => (confirm = resolve));
    const renewed: string[] = [];
    const calls: Partial<CutCalls> = {
      async cut(_id, { epoch }) {
        await confirmed;
        const source = { lease: 'source', uri: 'nbd+unix:///a?socket=/s', selected: null };
        return { epoch, source, tracking: 'tracking' };
      },
      stopTracking: async () => {},
      renewTracking: async (lease) => void renewed.push(lease),
      closeSource: async () => {},
      markCopied: async () => {},
    };
    const server = new RemoteServer(
      {
        address: { kind: 'unix', path: '/s' },
        clock,
        calls: calls as CutCalls,
        openSnapshot: () => Promise.reject(new Error('nobody reads it')),
      },
      { id: 'a', sizeBytes, identities: [] },
    );
    const late = server.cut({ ...request, trackChanges: true });
    await server.stopTracking(1);
    confirm();
    await (await late).source.close();
    await clock.advance(2 * LEASE_MS);
    expect(renewed).toEqual([]);
  });

  test('that dies leaves neither snapshots nor the tracking of changes behind', async () => {
    // The client's clock stands still, as that of a process that is gone; the server's goes on.
    const clock = new ManualClock();
    const served = await serveCluster({ servers: [memory('a', sizeBytes)] }, clock);
    await using _served = served;
    const body = { ...request, trackChanges: true };
    await served.client.get(z.any(), { method: 'POST', path: '/v1/servers/a/cut', body });
    await served.client.send({ method: 'POST', path: '/v1/servers/a/release', body: ticket }).catch(() => {});
    expect(await served.client.status()).toMatchObject({ servers: [{ snapshots: 1 }] });
    await clock.advance(LEASE_MS + 1);
    await expect.poll(async () => (await served.client.status()).servers[0]?.snapshots).toBe(0);
    const late = served.service.cluster.server('a').cut({ ...request, epoch: 2, changedSinceEpoch: 1 });
    await expect(late).rejects.toMatchObject({ code: 'CUT_VOID' });
  });
});
