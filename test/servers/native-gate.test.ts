import { expect, test } from 'vitest';
import type { NativePreImages, NativeWatch } from '#src/core/core';
import type { NativePath } from '#src/devices/block-device';
import { MemoryDevice } from '#src/devices/memory';
import type { CutRequest } from '#src/servers/control';
import { StorageServer } from '#src/servers/server';
import { isSettled, turns } from '../support/manual-clock.js';
import { OverseenDevice } from '../support/overseen-device.js';

const BLOCK = 4096;
const ticket = { epoch: 1, coordinator: 'test' };
const request: CutRequest = { ...ticket, leaseMs: 60_000, fixedBy: 'snapshot', blockSizeBytes: BLOCK };

const Word = { changesShut: 0, changesInside: 1, readsShut: 2, readsInside: 3 };

/** A server that lets native requests pass, without any: a test does with the words what a native thread would. */
class Site {
  readonly device: OverseenDevice;
  readonly server: StorageServer;
  readonly #path: NativePath | undefined;

  constructor(watch?: NativeWatch) {
    this.device = new OverseenDevice(new MemoryDevice(16 * BLOCK), { fd: 0, takesWrites: true, watch });
    this.server = new StorageServer({ id: 'a', device: this.device });
    this.#path = this.server.client.nativePath;
  }

  word(index: number): number {
    if (!this.#path) throw new Error('there is no way for native requests');
    return Atomics.load(this.#path.gate, index);
  }

  enter(index: number): void {
    if (this.#path) Atomics.add(this.#path.gate, index, 1);
  }

  leave(index: number): void {
    if (!this.#path) return;
    Atomics.sub(this.#path.gate, index, 1);
    this.#path.left();
  }
}

test('a drain waits for native changes, and status counts them', async () => {
  const site = new Site();
  site.enter(Word.changesInside);
  expect(await site.server.status()).toMatchObject({ inFlight: 1 });
  const cutting = site.server.cut(request);
  await turns();
  expect(site.word(Word.changesShut)).not.toBe(0);
  expect(await isSettled(cutting)).toBe(false);
  site.leave(Word.changesInside);
  await (await cutting).source.close();
});

test('one that tries the gate and turns back is no reason to give a cut up', async () => {
  const site = new Site();
  site.enter(Word.changesInside);
  const cutting = site.server.cut(request);
  await turns();
  site.leave(Word.changesInside);
  // Between the end of the drain and the confirmation.
  queueMicrotask(() => site.enter(Word.changesInside));
  const { source } = await cutting;
  site.leave(Word.changesInside);
  await source.close();
  expect(await site.server.release(ticket)).toMatchObject({ heldWithoutBreak: true });
});

test('a device is shut to native changes from the barrier on for as long as it is watched', async () => {
  const site = new Site();
  expect(site.word(Word.changesShut)).toBe(0);
  const { source } = await site.server.cut({ ...request, trackChanges: true });
  expect(site.word(Word.changesShut)).not.toBe(0);
  expect(site.word(Word.readsShut)).toBe(0);
  // While what was parked is begun it may not be open for a moment.
  const seen: number[] = [];
  site.device.onWrite = () => void seen.push(site.word(Word.changesShut));
  const parked = site.server.client.write(0, new Uint8Array(512));
  await turns();
  await site.server.release(ticket);
  await parked;
  expect(seen).toHaveLength(1);
  expect(seen[0]).not.toBe(0);
  expect(site.word(Word.changesShut)).not.toBe(0);
  await source.close();
  expect(site.word(Word.changesShut)).not.toBe(0);
  await site.server.stopTracking(1);
  expect(site.word(Word.changesShut)).toBe(0);
  // And the other way round.
  const second = await site.server.cut({ ...request, epoch: 2, trackChanges: true });
  await site.server.release({ ...ticket, epoch: 2 });
  await site.server.stopTracking(2);
  expect(site.word(Word.changesShut)).not.toBe(0);
  await second.source.close();
  expect(site.word(Word.changesShut)).toBe(0);
});

/** What native threads would look at. */
class NotedWatch implements NativeWatch {
  readonly log: string[] = [];
  onBegin: () => void = () => {};

  begin(): NativePreImages {
    this.onBegin();
    this.log.push('begin');
    return {
      preserveNow: () => this.log.push('preserve') > 0,
      preserve: () => Promise.resolve(),
      restore: () => Promise.resolve(),
      free: () => {},
      end: () => void this.log.push('end'),
      close: () => Promise.resolve(void this.log.push('close')),
      passed: 0,
    };
  }
}

test('native threads learn of a snapshot before the gate is opened, and then it is open to them', async () => {
  const watch = new NotedWatch();
  const site = new Site(watch);
  const seen: number[] = [];
  watch.onBegin = () => void seen.push(site.word(Word.changesShut));
  const { source } = await site.server.cut(request);
  expect(seen).toHaveLength(1);
  expect(seen[0]).not.toBe(0);
  const parked = site.server.client.write(0, new Uint8Array(512));
  await site.server.release(ticket);
  expect(site.word(Word.changesShut)).toBe(0);
  await parked;
  await source.close();
  expect(watch.log).toEqual(['begin', 'preserve', 'end', 'close']);
});

test('who tracks changes shuts it nevertheless', async () => {
  const site = new Site(new NotedWatch());
  const { source } = await site.server.cut({ ...request, trackChanges: true });
  await site.server.release(ticket);
  expect(site.word(Word.changesShut)).not.toBe(0);
  await site.server.stopTracking(1);
  expect(site.word(Word.changesShut)).toBe(0);
  await source.close();
});

test('it is opened only after what was parked was let go', async () => {
  const site = new Site();
  const { source } = await site.server.cut({ ...request, fixedBy: 'barrier' });
  const seen: number[] = [];
  site.device.onWrite = () => void seen.push(site.word(Word.changesShut));
  const parked = [0, 1, 2].map((sector) => site.server.client.write(512 * sector, new Uint8Array(512)));
  await turns();
  await site.server.release(ticket);
  await Promise.all(parked);
  expect(seen).toHaveLength(3);
  expect(seen).not.toContain(0);
  expect(site.word(Word.changesShut)).toBe(0);
  await source.close();
});

test('a lease that runs out and a break open it too', async () => {
  const site = new Site();
  const { source } = await site.server.cut({ ...request, fixedBy: 'barrier' });
  site.server.breakCut('it ends');
  expect(site.word(Word.changesShut)).toBe(0);
  await source.close();
});

test('a power cut waits for native requests, and shuts both ways meanwhile', async () => {
  const site = new Site();
  site.enter(Word.changesInside);
  site.enter(Word.readsInside);
  const back = site.server.powerCut({ seed: 1 });
  expect(site.word(Word.changesShut)).not.toBe(0);
  expect(site.word(Word.readsShut)).not.toBe(0);
  site.leave(Word.changesInside);
  expect(await isSettled(back)).toBe(false);
  site.leave(Word.readsInside);
  await back;
  expect([site.word(Word.changesShut), site.word(Word.readsShut)]).toEqual([0, 0]);
});

test('closing waits for native requests before the device is closed, and the gate stays shut', async () => {
  const site = new Site();
  site.enter(Word.readsInside);
  const closing = site.server.close();
  await turns();
  expect(await isSettled(closing)).toBe(false);
  // It is still open.
  await site.device.read(0, new Uint8Array(1));
  site.leave(Word.readsInside);
  await closing;
  await expect(site.device.read(0, new Uint8Array(1))).rejects.toMatchObject({ code: 'DEVICE_CLOSED' });
  expect(site.word(Word.changesShut)).not.toBe(0);
  expect(site.word(Word.readsShut)).not.toBe(0);
});

test('a device that does more in a write than its descriptor has no way for native requests', () => {
  const device = new OverseenDevice(new MemoryDevice(BLOCK), { fd: 0 });
  expect(new StorageServer({ id: 'a', device }).client.nativePath).toBeUndefined();
});
