import { closeSync, fstatSync, mkdirSync, openSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { loadCore } from '#src/core/load';
import { FileDevice } from '#src/devices/file';
import { Command } from '#src/nbd/protocol';
import { NbdServer } from '#src/nbd/server/server';
import { MiB } from '#src/runtime/sizes';
import { StorageServer } from '#src/servers/server';
import { temporaryDirectory } from '../support/directory.js';
import { mount, run } from '../support/loop-device.js';
import { needs } from '../support/needs.js';
import { OverseenDevice } from '../support/overseen-device.js';
import { tableOf } from './haggler.js';
import { Wire } from './wire.js';

const { serveConnection } = await loadCore();
const nativeTest = serveConnection ? test : test.skip;

// When a worker thread is terminated, Node closes its files before it gives up its connections.
nativeTest('a thread writes to nothing but its device, whoever closes the descriptor', async () => {
  await using directory = temporaryDirectory({ inMemory: true });
  const file = await FileDevice.open(directory.file('image'), { create: { sizeBytes: MiB } });
  const fd = openSync(directory.file('image'), 'r+');
  await using server = new StorageServer({
    id: 'a',
    device: new OverseenDevice(file, { fd, takesWrites: true }),
  });
  Wire.path = 'native';
  await using wire = await Wire.connect(server.client);
  closeSync(fd);
  const other = openSync(directory.file('other'), 'wx+');
  expect(other).toBe(fd);
  wire.send({ command: Command.Write, payload: new Uint8Array(4096).fill(0x77) });
  await wire.reply();
  const { size } = fstatSync(other);
  closeSync(other);
  expect(size).toBe(0);
  const written = new Uint8Array(4096);
  await file.read(0, written);
  expect(written.every((byte) => byte === 0x77)).toBe(true);
});

/** A client in a thread of its own, which writes without end. */
const writing = `
  const { parentPort, workerData } = require('node:worker_threads');
  void (async () => {
    const { NbdDevice } = await import(workerData.package);
    const device = await NbdDevice.open(workerData.uri, { reconnectMs: 0, connections: 1 });
    const bytes = new Uint8Array(4096).fill(0x77);
    await device.write(0, bytes);
    parentPort.postMessage('writing');
    for (;;) await device.write(0, bytes);
  })().catch(() => {});
`;

needs(
  'root',
  '/dev/loop-control',
  'mke2fs',
  'fsfreeze',
  'native core',
)('a server that is closed gives up requests that the medium does not answer', async () => {
  await using directory = temporaryDirectory();
  const place = directory.file('mount');
  mkdirSync(place);
  await run('truncate', '-s', '64M', directory.file('ext4'));
  await run('mke2fs', '-q', '-F', '-t', 'ext4', directory.file('ext4'));
  const mounted = await mount('-o', 'loop', directory.file('ext4'), place);
  const device = await FileDevice.open(`${place}/image`, { create: { sizeBytes: MiB } });
  const server = new StorageServer({ id: 'a', device });
  const nbd = await NbdServer.listen({
    exports: tableOf([{ name: 'disk', device: server.client }]),
    listen: { kind: 'unix', path: directory.file('nbd') },
  });
  const workerData = {
    package: new URL('../../dist/index.js', import.meta.url).href,
    uri: nbd.uriOf('disk'),
  };
  const client = new Worker(writing, { eval: true, workerData });
  await new Promise((resolve) => client.once('message', resolve));
  await run('fsfreeze', '-f', place);
  let isThawed = false;
  const thaw = async (): Promise<void> => {
    if (!isThawed) await run('fsfreeze', '-u', place);
    isThawed = true;
  };
  try {
    // A write is about to be stuck, if none is.
    await new Promise((resolve) => setTimeout(resolve, 300));
    await nbd.close();
    expect(isThawed).toBe(false);
  } finally {
    await thaw();
    await client.terminate();
    await server.close();
    await mounted[Symbol.asyncDispose]();
  }
});
