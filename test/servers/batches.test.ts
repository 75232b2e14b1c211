import { expect, test } from 'vitest';
import type { Batch } from '#src/core/core';
import { FileDevice } from '#src/devices/file';
import { MemoryDevice } from '#src/devices/memory';
import type { CutRequest } from '#src/servers/control';
import { StorageServer } from '#src/servers/server';
import { readBytes } from '../support/bytes.js';
import { temporaryDirectory } from '../support/directory.js';
import { isSettled, turns } from '../support/manual-clock.js';

const BLOCK = 4096;
const ticket = { epoch: 1, coordinator: 'test' };
const request: CutRequest = { ...ticket, leaseMs: 60_000, fixedBy: 'snapshot', blockSizeBytes: BLOCK };

/** Two writes, far from each other. */
const twoWrites: Batch = {
  bytes: new Uint8Array(2 * BLOCK).fill(9),
  places: Float64Array.of(0, 0, BLOCK, 5 * BLOCK, BLOCK, BLOCK),
};

test('writes that are sent together are parked together and counted one by one', async () => {
  await using directory = temporaryDirectory();
  const device = await FileDevice.open(directory.file('a'), { create: { sizeBytes: 16 * BLOCK } });
  await using server = new StorageServer({ id: 'a', device });
  await using source = (await server.cut(request)).source;
  const parked = server.client.writeBatch?.([twoWrites]);
  const later = server.client.write(9 * BLOCK, new Uint8Array(BLOCK).fill(3));
  await turns();
  expect(await isSettled(parked ?? Promise.resolve())).toBe(false);
  expect(await server.status()).toMatchObject({ parked: 3, inFlight: 0 });
  expect(await readBytes(device)).toEqual(new Uint8Array(16 * BLOCK));
  expect(await server.release(ticket)).toMatchObject({ heldWithoutBreak: true, parkedRequests: 3 });
  await Promise.all([parked, later]);
  expect((await readBytes(device, 9 * BLOCK, 1))[0]).toBe(3);
  expect((await readBytes(device, 0, 1))[0]).toBe(9);
  expect((await readBytes(device, 5 * BLOCK, 1))[0]).toBe(9);
  expect(await server.status()).toMatchObject({ parked: 0, inFlight: 0 });
  // Every one of them was preserved before it was overwritten.
  expect(await readBytes(source.device)).toEqual(new Uint8Array(16 * BLOCK));
});

test('every one of the writes that are sent together counts as a change', async () => {
  await using directory = temporaryDirectory();
  const device = await FileDevice.open(directory.file('a'), { create: { sizeBytes: 16 * BLOCK } });
  await using server = new StorageServer({ id: 'a', device });
  const first = await server.cut({ ...request, trackChanges: true });
  await server.release(ticket);
  await first.source.close();
  await server.client.writeBatch?.([twoWrites]);
  const second = await server.cut({ ...request, epoch: 2, changedSinceEpoch: 1 });
  expect(second.source.selected?.[0]).toBe((1 << 0) | (1 << 5));
  await second.source.close();
});

test('a drain waits for writes that were sent together', async () => {
  await using directory = temporaryDirectory();
  const device = await FileDevice.open(directory.file('a'), { create: { sizeBytes: 16 * BLOCK } });
  await using server = new StorageServer({ id: 'a', device });
  const writing = server.client.writeBatch?.([twoWrites]);
  await using source = (await server.cut(request)).source;
  expect((await readBytes(source.device, 5 * BLOCK, 1))[0]).toBe(9);
  await writing;
});

test('without power nothing is read at once, nor is anything written', async () => {
  await using directory = temporaryDirectory();
  const device = await FileDevice.open(directory.file('a'), { create: { sizeBytes: 16 * BLOCK } });
  const server = new StorageServer({ id: 'a', device });
  await server.close();
  const done = new Uint8Array(2);
  expect(() => server.client.readNow?.(twoWrites, done)).toThrow('was closed');
  expect([...done]).toEqual([0, 0]);
  await expect(server.client.writeBatch?.([twoWrites])).rejects.toMatchObject({ code: 'DEVICE_CLOSED' });
});

test('a device that takes no batches has none to offer through its server', async () => {
  await using server = new StorageServer({ id: 'a', device: new MemoryDevice(BLOCK) });
  expect(server.client.writeBatch).toBeUndefined();
  expect(server.client.readNow).toBeUndefined();
});
