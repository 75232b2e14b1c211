import { expect, test } from 'vitest';
import { once } from 'node:events';
import net from 'node:net';
import { loadCore } from '#src/core/load';
import type { BlockDevice } from '#src/devices/block-device';
import { FileDevice } from '#src/devices/file';
import { MemoryDevice } from '#src/devices/memory';
import { baseAllocation } from '#src/nbd/server/block-status';
import { NativeStream } from '#src/nbd/server/native-stream';
import { Transmission } from '#src/nbd/server/transmission';
import { MiB } from '#src/runtime/sizes';
import { StorageServer } from '#src/servers/server';
import { temporaryDirectory } from '../support/directory.js';
import { residentBytes, usedBytes } from '../support/used-bytes.js';
import { Pipe } from './pipe.js';
import { fuzzTransmission, sizeBytes, type FuzzedConnection } from './transmission-fuzz.js';

/** RUNS=1000000 for a long run. */
const runs = process.env['RUNS'];
const { serveConnection: serve } = await loadCore();

function startTransmission(
  stream: Pipe | NativeStream,
  device: BlockDevice,
  structuredReplies: boolean,
): Promise<void> {
  const contexts = new Map([[1, baseAllocation(device)]]);
  return new Transmission({ stream, export: { name: '', device }, structuredReplies, contexts }).run();
}

function connectPipe(structured: boolean): Promise<FuzzedConnection> {
  const pipe = new Pipe();
  const ended = startTransmission(pipe, new MemoryDevice(sizeBytes), structured);
  return Promise.resolve(Object.assign(pipe, { ended, [Symbol.asyncDispose]: () => ended }));
}

test(
  'whatever is sent is answered as the protocol says, without crash, hang or growth',
  async () => {
    const grown = await fuzzTransmission(Number(runs ?? 50_000), connectPipe, usedBytes);
    expect(grown).toBeLessThan(16 * MiB);
  },
  60 * 60_000,
);

/** A connection over a socket that a native thread serves. */
async function connectNative(
  server: net.Server,
  path: string,
  device: BlockDevice,
  structuredReplies: boolean,
): Promise<FuzzedConnection> {
  const { nativePath } = device;
  if (!serve || !nativePath) throw new Error('no native thread can serve it');
  const client = net.connect({ path, allowHalfOpen: true });
  const [socket] = (await once(server, 'connection')) as [net.Socket];
  const options = { serve, path: nativePath, sizeBytes, readOnly: false, structuredReplies };
  const stream = NativeStream.takeOver(socket, options);
  if (!(stream instanceof NativeStream)) throw new Error('the connection was not taken over');
  const answers: Buffer[] = [];
  client.on('data', (bytes: Buffer) => answers.push(bytes));
  // What is sent after the end of the requests may find nobody who takes it.
  client.on('error', () => {});
  const closed = new Promise((resolve) => client.on('close', resolve));
  client.on('end', () => client.end());
  const served = startTransmission(stream, device, structuredReplies);
  return {
    feed: (bytes) => void client.write(bytes),
    feedEnd: () => void client.end(),
    ended: bothOf(served, closed),
    get answers() {
      return Buffer.concat(answers);
    },
    async [Symbol.asyncDispose]() {
      client.destroy();
      await served;
    },
  };
}

async function bothOf(one: Promise<unknown>, other: Promise<unknown>): Promise<void> {
  await one;
  await other;
}

test.skipIf(!serve)(
  'the same with a native thread between the client and JavaScript',
  async () => {
    await using directory = temporaryDirectory({ inMemory: true });
    const file = await FileDevice.open(directory.file('image'), { create: { sizeBytes } });
    await using storage = new StorageServer({ id: 'a', device: file });
    const path = directory.file('socket');
    const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true }).listen(path);
    await once(server, 'listening');
    const grown = await fuzzTransmission(
      Number(runs ?? 15_000),
      (structured) => connectNative(server, path, storage.client, structured),
      residentBytes,
    );
    expect(grown).toBeLessThan(12 * MiB);
    expect(await storage.status()).toMatchObject({ inFlight: 0 });
    server.close();
  },
  60 * 60_000,
);
