import { afterEach, expect, test } from 'vitest';
import { loadCore } from '#src/core/load';
import { FileDevice } from '#src/devices/file';
import { Command } from '#src/nbd/protocol';
import { KiB, MiB } from '#src/runtime/sizes';
import type { CutRequest } from '#src/servers/control';
import { StorageServer } from '#src/servers/server';
import { temporaryDirectory } from '../support/directory.js';
import { encodeRequest, Wire } from './wire.js';

Wire.path = 'native';
const { serveConnection } = await loadCore();
const nativeTest = serveConnection ? test : test.skip;
const ticket = { epoch: 1, coordinator: 'test' };
const request: CutRequest = { ...ticket, leaseMs: 60_000, fixedBy: 'barrier', blockSizeBytes: 4096 };

/** What the process takes, in bytes: what the native core allocates is on no heap. */
function residentBytes(): number {
  return process.memoryUsage.rss();
}

const wires: Wire[] = [];
afterEach(async () => {
  for (const wire of wires.splice(0)) await wire[Symbol.asyncDispose]();
});

async function open(directory: { file(name: string): string }, size: number): Promise<StorageServer> {
  const device = await FileDevice.open(directory.file('image'), { create: { sizeBytes: size } });
  return new StorageServer({ id: 'a', device });
}

async function connect(server: StorageServer): Promise<Wire> {
  const wire = await Wire.connect(server.client);
  wires.push(wire);
  return wire;
}

nativeTest(
  'replies with holes that are not read take bounded memory',
  async () => {
    await using directory = temporaryDirectory({ inMemory: true });
    await using server = await open(directory, 8 * MiB);
    await server.client.write(4 * MiB, new Uint8Array(MiB).fill(1));
    const wire = await connect(server);
    wire.send({ command: Command.Read, length: MiB });
    await wire.readReply(0, MiB);
    const before = residentBytes();
    // Fills the buffers of the socket, so that what comes after it waits. Nothing is read from here on.
    wire.send({ command: Command.Read, offset: 4 * MiB, length: 900 * KiB });
    await new Promise((resolve) => setTimeout(resolve, 100));
    // Each is answered with a hole: a few bytes, for which a buffer of a megabyte was used.
    for (let i = 0; i < 600; i++) wire.send({ command: Command.Read, length: MiB });
    await new Promise((resolve) => setTimeout(resolve, 1500));
    expect(residentBytes() - before).toBeLessThan(64 * MiB);
  },
  60_000,
);

nativeTest(
  'parked writes among what is refused take bounded memory',
  async () => {
    await using directory = temporaryDirectory({ inMemory: true });
    await using server = await open(directory, MiB);
    const wire = await connect(server);
    const { source } = await server.cut(request);
    const before = residentBytes();
    const past = encodeRequest({
      command: Command.Write,
      offset: MiB,
      payload: new Uint8Array(MiB - 64 * KiB),
    });
    const small = encodeRequest({ command: Command.Write, payload: new Uint8Array(1) });
    const both = Buffer.concat([past, small]);
    wire.stream.resume();
    for (let i = 0; i < 1500; i++) {
      if (!wire.stream.write(both)) await new Promise((resolve) => wire.stream.once('drain', resolve));
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(await server.status()).toMatchObject({ parked: 1500 });
    expect(residentBytes() - before).toBeLessThan(128 * MiB);
    await server.release(ticket);
    await source.close();
  },
  60_000,
);
