import { test } from 'vitest';
import { MemoryDevice } from '#src/devices/memory';
import type { CutSource } from '#src/servers/control';
import { StorageServer } from '#src/servers/server';
import { testConformance, type Subject } from '../devices/conformance.js';

const sizeBytes = 300_000;

function start(size: number): StorageServer {
  return new StorageServer({ id: 'a', device: new MemoryDevice(size) });
}

async function cut(server: StorageServer): Promise<CutSource> {
  const ticket = { epoch: 1, coordinator: 'test' };
  const { source } = await server.cut({
    ...ticket,
    leaseMs: 60_000,
    fixedBy: 'snapshot',
    blockSizeBytes: 4096,
  });
  await server.release(ticket);
  return source;
}

async function openSnapshot(size: number): Promise<Subject> {
  const server = start(size);
  const { device } = await cut(server);
  return { device, [Symbol.asyncDispose]: () => server.close() };
}

testConformance({
  name: 'a server as its clients see it; read-only: a live snapshot of it',
  sizeBytes,
  anySize: true,
  test,
  open: (size) => {
    const server = start(size);
    return Promise.resolve({ device: server.client, [Symbol.asyncDispose]: () => server.close() });
  },
  openReadOnly: openSnapshot,
});

testConformance({
  name: 'a server with a live snapshot',
  sizeBytes,
  anySize: true,
  test,
  open: async (size) => {
    const server = start(size);
    await cut(server);
    return { device: server.client, [Symbol.asyncDispose]: () => server.close() };
  },
});
