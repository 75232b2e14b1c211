import { once } from 'node:events';
import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { afterEach, expect, test } from 'vitest';
import { NbdDevice } from 'cofferdam';
import { loadCore } from '#src/core/load';
import { FileDevice } from '#src/devices/file';
import { Command, CommandFlag, Errno, Option } from '#src/nbd/protocol';
import { NbdServer } from '#src/nbd/server/server';
import { CofferdamError } from '#src/runtime/errors';
import { Random } from '#src/runtime/random';
import { KiB, MiB } from '#src/runtime/sizes';
import type { CutRequest } from '#src/servers/control';
import { StorageServer } from '#src/servers/server';
import { differenceAt, randomBytes, readBytes } from '../support/bytes.js';
import { temporaryDirectory } from '../support/directory.js';
import { OverseenDevice } from '../support/overseen-device.js';
import { testSeed } from '../support/seed.js';
import { encodeInfo, serve, tableOf } from './haggler.js';
import { connect, countReplies, disconnect, Site, spin } from './native-site.js';
import { encodeRequest, Wire, type WireRequest } from './wire.js';

Wire.path = 'native';
const { serveConnection } = await loadCore();
const nativeTest = serveConnection ? test : test.skip;

const BLOCK = 4 * KiB;
const BLOCKS = 256;
const sizeBytes = BLOCKS * BLOCK;
const ticket = { epoch: 1, coordinator: 'test' };
const request: CutRequest = { ...ticket, leaseMs: 60_000, fixedBy: 'snapshot', blockSizeBytes: BLOCK };

/** Writes of a block each, whose bytes tell which one it was. */
function randomWrites(random: Random, count: number): WireRequest[] {
  return Array.from({ length: count }, (_, i) => ({
    command: Command.Write,
    cookie: BigInt(i),
    offset: random.below(BLOCKS) * BLOCK,
    payload: new Uint8Array(BLOCK).fill(1 + random.below(255)),
  }));
}

afterEach(disconnect);

nativeTest('plain reads and writes go past JavaScript, and do what they should', async () => {
  const seed = testSeed();
  const random = new Random(seed);
  await using site = await Site.open(sizeBytes);
  const wire = await connect(site.server);
  const model = Buffer.alloc(sizeBytes);
  const bytes = randomBytes(sizeBytes, seed);
  for (let round = 0; round < 300; round++) {
    const offset = random.below(sizeBytes);
    const length = 1 + random.below(random.pick([16, 8192, sizeBytes]));
    const payload = bytes.subarray(offset, Math.min(sizeBytes, offset + length));
    if (random.below(3) === 0) payload.fill(0);
    model.set(payload, offset);
    wire.send({ command: Command.Write, offset, payload });
    expect(await wire.reply()).toMatchObject({ errno: 0 });
    const at = random.below(sizeBytes);
    const count = Math.min(sizeBytes - at, 1 + random.below(random.pick([16, 8192, sizeBytes])));
    const flags = random.pick([0, CommandFlag.Df]);
    wire.send({ command: Command.Read, flags, offset: at, length: count });
    const read = await wire.readReply(at, count);
    expect(read.errno).toBe(0);
    expect(differenceAt(read.bytes, model.subarray(at, at + count)), `round ${round}`).toBeUndefined();
    if (flags === CommandFlag.Df) expect(read).toMatchObject({ chunks: 1, holes: [] });
  }
  expect(site.device.log).toEqual([]);
  expect(site.content().equals(model)).toBe(true);
});

nativeTest('zeros are told as holes, as they are without a native thread', async () => {
  await using site = await Site.open(sizeBytes);
  const wire = await connect(site.server);
  wire.send({ command: Command.Write, offset: 128 * KiB, payload: new Uint8Array(64 * KiB).fill(1) });
  await wire.reply();
  wire.send({ command: Command.Read, length: 256 * KiB + 5 });
  const read = await wire.readReply(0, 256 * KiB + 5);
  expect(read.holes).toEqual([
    { offset: 0, length: 128 * KiB },
    { offset: 192 * KiB, length: 64 * KiB + 5 },
  ]);
  expect(site.device.log).toEqual([]);
});

nativeTest('what is special about a request makes JavaScript answer it', async () => {
  await using site = await Site.open(4 * MiB);
  const wire = await connect(site.server);
  const payload = new Uint8Array(512);
  wire.send(
    { command: Command.Write, flags: CommandFlag.Fua, payload },
    { command: Command.Write, offset: 512, payload: new Uint8Array(MiB + 1) },
    { command: Command.Read, offset: 1, length: MiB + 1, flags: CommandFlag.Df },
    { command: Command.Flush },
  );
  for (let i = 0; i < 4; i++) expect(await wire.reply()).toMatchObject({ errno: 0 });
  expect(site.device.log.toSorted()).toEqual(['flush', 'read 1+1048577', 'write 0+512', 'write 512+1048577']);
});

nativeTest(
  'a flush reaches the device also where all that was written came by another connection',
  async () => {
    await using site = await Site.open(sizeBytes);
    const [writer, flusher] = [await connect(site.server), await connect(site.server)];
    for (let round = 0; round < 3; round++) {
      writer.send({ command: Command.Write, payload: new Uint8Array(512) });
      expect(await writer.reply()).toMatchObject({ errno: 0 });
      flusher.send({ command: Command.Flush });
      expect(await flusher.reply()).toMatchObject({ errno: 0 });
    }
    expect(site.device.log).toEqual(['flush', 'flush', 'flush']);
  },
);

nativeTest('what cannot be written is tried again, to tell the client why', async () => {
  await using directory = temporaryDirectory();
  const file = await FileDevice.open(directory.file('image'), { create: { sizeBytes } });
  const readable = openSync(directory.file('image'), 'r');
  const device = new OverseenDevice(file, { fd: readable, takesWrites: true });
  device.onWrite = () => Promise.reject(new CofferdamError('DEVICE_FULL', 'no space'));
  await using server = new StorageServer({ id: 'a', device });
  const wire = await connect(server);
  wire.send({ command: Command.Write, payload: new Uint8Array(512) });
  expect(await wire.reply()).toMatchObject({ errno: Errno.ENOSPC });
  expect(device.log).toEqual(['write 0+512']);
  expect(await server.status()).toMatchObject({ inFlight: 0 });
  await server.close();
  closeSync(readable);
});

nativeTest('a parked write parks only itself, while reads go on past JavaScript', async () => {
  await using site = await Site.open(sizeBytes);
  const wire = await connect(site.server);
  await using source = (await site.server.cut(request)).source;
  wire.send({ command: Command.Write, cookie: 1n, payload: new Uint8Array(BLOCK).fill(7) });
  for (let i = 0; i < 100; i++) {
    wire.send({ command: Command.Read, cookie: 2n, length: 512 });
    expect(await wire.reply()).toMatchObject({ cookie: 2n, errno: 0 });
  }
  await expect.poll(() => site.server.status()).toMatchObject({ parked: 1, inFlight: 0 });
  expect(site.device.log).toEqual([]);
  expect(await site.server.release(ticket)).toMatchObject({ heldWithoutBreak: true, parkedRequests: 1 });
  expect(await wire.reply()).toMatchObject({ cookie: 1n, errno: 0 });
  expect((await readBytes(source.device)).every((byte) => byte === 0)).toBe(true);
});

nativeTest(
  'under a barrier nothing changes, whatever native threads are at',
  async () => {
    const seed = testSeed();
    const random = new Random(seed);
    await using site = await Site.open(sizeBytes);
    let cuts = 0;
    for (let epoch = 1; epoch <= 100; epoch++) {
      const some = [await connect(site.server), await connect(site.server)];
      const counts = some.map(countReplies);
      for (const wire of some) wire.send(...randomWrites(random, 1500));
      while (counts.every((count) => count() < 10)) await new Promise(setImmediate);
      const { source } = await site.server.cut({ ...request, epoch });
      // In the very turn of the confirmation, and while no turn can be given to anyone.
      const atOnce = site.content();
      spin(random.below(3));
      expect(differenceAt(site.content(), atOnce), `seed ${seed}, cut ${epoch}`).toBeUndefined();
      if (counts.some((count) => count() < 1500)) cuts++;
      await site.server.release({ ...ticket, epoch });
      // Snapshot: every write from now on is preserved, whoever makes it.
      expect(
        differenceAt(await readBytes(source.device), atOnce),
        `seed ${seed}, snapshot ${epoch}`,
      ).toBeUndefined();
      await source.close();
      await expect.poll(() => counts.map((count) => count())).toEqual([1500, 1500]);
      await disconnect();
    }
    // Else no barrier had anything to hold back.
    expect(cuts).toBeGreaterThan(50);
    expect(await site.server.status()).toMatchObject({ inFlight: 0, parked: 0 });
  },
  120_000,
);

nativeTest('every change is tracked, and what is tracked no more goes past JavaScript again', async () => {
  await using site = await Site.open(sizeBytes);
  const wire = await connect(site.server);
  const { source } = await site.server.cut({ ...request, fixedBy: 'barrier', trackChanges: true });
  await site.server.release(ticket);
  await source.close();
  const write = { command: Command.Write, payload: new Uint8Array(1) };
  for (const block of [3, 70, 200]) {
    wire.send({ ...write, offset: block * BLOCK });
    await wire.reply();
  }
  const second = await site.server.cut({ ...request, epoch: 2, changedSinceEpoch: 1 });
  const changed = second.source.selected ?? [];
  expect([...changed].flatMap((word, i) => (word === 0 ? [] : [[i, word >>> 0]]))).toEqual([
    [0, 1 << 3],
    [2, 1 << 6],
    [6, 1 << 8],
  ]);
  await site.server.release({ ...ticket, epoch: 2 });
  await second.source.close();
  site.device.log.length = 0;
  wire.send(write);
  await wire.reply();
  expect(site.device.log).toEqual([]);
});

nativeTest(
  'what was sent before a power cut does not reach the device after it',
  async () => {
    const seed = testSeed();
    const random = new Random(seed);
    await using site = await Site.open(sizeBytes);
    let interrupted = 0;
    for (let round = 0; round < 50; round++) {
      const wire = await connect(site.server);
      const count = countReplies(wire);
      wire.send(...randomWrites(random, 3000));
      while (count() < 10) await new Promise(setImmediate);
      const back = site.server.powerCut({ seed });
      // As whoever cuts the power of a served device does, in the same turn.
      wire.transmission.destroy();
      await back;
      const content = site.content();
      spin(2);
      expect(differenceAt(site.content(), content), `seed ${seed}, round ${round}`).toBeUndefined();
      await wire.ended;
      expect(site.content().equals(content)).toBe(true);
      if (count() < 3000) interrupted++;
    }
    expect(interrupted).toBeGreaterThan(25);
  },
  120_000,
);

nativeTest('a server that is closed is left alone by native threads', async () => {
  const random = new Random(testSeed());
  for (let round = 0; round < 20; round++) {
    await using site = await Site.open(sizeBytes);
    const wire = await connect(site.server);
    const count = countReplies(wire);
    wire.send(...randomWrites(random, 2000));
    while (count() < 10) await new Promise(setImmediate);
    await site.server.close();
    const content = site.content();
    spin(1);
    expect(site.content().equals(content)).toBe(true);
    await disconnect();
  }
});

nativeTest('a view that is closed answers nothing any more', async () => {
  await using site = await Site.open(sizeBytes);
  const wire = await connect(site.server);
  await site.server.client.close();
  wire.send({ command: Command.Read, length: 512 }, { command: Command.Write, payload: new Uint8Array(512) });
  for (let i = 0; i < 2; i++) expect(await wire.reply()).toMatchObject({ errno: Errno.ESHUTDOWN });
});

nativeTest('draining begins nothing more and answers all that was begun', async () => {
  const random = new Random(testSeed());
  await using site = await Site.open(sizeBytes);
  for (let round = 0; round < 20; round++) {
    const wire = await connect(site.server);
    const writes = randomWrites(random, 2000);
    wire.send(...writes);
    await new Promise(setImmediate);
    const before = site.content();
    wire.transmission.drain();
    const answered: bigint[] = [];
    for (;;) {
      const reply = await wire.reply().catch(() => undefined);
      if (!reply) break;
      expect(reply.errno).toBe(0);
      answered.push(reply.cookie);
    }
    await wire.closed();
    const model = before;
    for (const cookie of answered) {
      const { offset = 0, payload = new Uint8Array() } = writes[Number(cookie)] ?? {};
      model.set(payload, Number(offset));
    }
    expect(site.content().equals(model)).toBe(true);
  }
});

nativeTest('a client that does not read its replies takes bounded memory', async () => {
  await using site = await Site.open(sizeBytes);
  const wire = await connect(site.server);
  await site.server.client.write(0, randomBytes(sizeBytes, 1));
  wire.send({ command: Command.Read, length: MiB });
  await wire.readReply(0, MiB);
  const before = process.memoryUsage().rss;
  const wanted = 400;
  for (let i = 0; i < wanted; i++) wire.send({ command: Command.Read, length: MiB });
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect(process.memoryUsage().rss - before).toBeLessThan(64 * MiB);
  for (let i = 0; i < wanted; i++) expect((await wire.readReply(0, MiB)).errno).toBe(0);
  expect(site.device.log).toHaveLength(1);
});

/** How many threads and open files this process has. */
function held(): { threads: number; files: number } {
  const threads = /Threads:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  return { threads: Number(threads), files: readdirSync('/proc/self/fd').length };
}

nativeTest(
  'clients that come and go leave no threads and no files',
  async () => {
    await using directory = temporaryDirectory();
    const file = await FileDevice.open(directory.file('image'), { create: { sizeBytes } });
    await using server = new StorageServer({ id: 'a', device: file });
    const exports = tableOf([{ name: 'disk', device: server.client }]);
    await using nbd = await NbdServer.listen({
      exports,
      listen: { kind: 'unix', path: directory.file('nbd') },
    });
    const bytes = new Uint8Array(512);
    const visit = async (): Promise<void> => {
      const device = await NbdDevice.open(nbd.uriOf('disk'), { connections: 1 });
      await device.write(0, bytes);
      await device.read(0, bytes);
      await device.close();
    };
    await visit();
    await expect.poll(() => nbd.connections).toBe(0);
    const before = held();
    for (let round = 0; round < 20; round++) await Promise.all(Array.from({ length: 10 }, visit));
    // Some send half of a request and vanish.
    for (let i = 0; i < 20; i++) {
      const wire = await connect(server);
      wire.stream.write(Buffer.alloc(13));
      await new Promise(setImmediate);
      wire.stream.destroy();
      await wire.ended;
    }
    await disconnect();
    await expect.poll(held).toEqual(before);
  },
  60_000,
);

nativeTest(
  'clients that vanish with a hundred replies queued leave no threads and no files',
  async () => {
    await using site = await Site.open(sizeBytes);
    await site.server.client.write(0, randomBytes(sizeBytes, 1));
    await using served = await serve([{ name: 'disk', device: site.server.client }]);
    const reads = Array.from({ length: 100 }, () => encodeRequest({ command: Command.Read, length: MiB }));
    /** Leaves once the first of its replies has come, and reads none of them. */
    const visit = async (): Promise<void> => {
      using client = await served.client();
      await client.verdict(Option.Go, encodeInfo('disk'));
      client.stream.write(Buffer.concat(reads));
      await once(client.stream, 'readable');
    };
    await visit();
    await expect.poll(() => served.server.connections).toBe(0);
    const before = held();
    for (let round = 0; round < 10; round++) await Promise.all(Array.from({ length: 20 }, visit));
    await expect.poll(held).toEqual(before);
    expect(served.server.connections).toBe(0);
    // All of them were answered by threads.
    expect(site.device.log.filter((entry) => entry.startsWith('read'))).toEqual([]);
  },
  60_000,
);

nativeTest(
  'a worker that ends with connections open takes nothing with it',
  async () => {
    await using directory = temporaryDirectory();
    const program = `
    const { parentPort, workerData } = require('node:worker_threads');
    void (async () => {
      const { FileDevice } = await import(workerData.root + 'devices/file.js');
      const { StorageServer } = await import(workerData.root + 'servers/server.js');
      const { NbdServer } = await import(workerData.root + 'nbd/server/server.js');
      const device = await FileDevice.open(workerData.image, { create: { sizeBytes: ${sizeBytes} } });
      const server = new StorageServer({ id: 'a', device });
      const disk = { name: 'disk', device: server.client };
      const exports = { list: () => [disk], find: () => disk };
      globalThis.kept = await NbdServer.listen({ exports, listen: { kind: 'unix', path: workerData.socket } });
      parentPort.postMessage(globalThis.kept.uriOf('disk'));
    })();
  `;
    const root = new URL('../../dist/', import.meta.url).href;
    for (let round = 0; round < 5; round++) {
      const workerData = {
        root,
        image: directory.file(`image${round}`),
        socket: directory.file(`nbd${round}`),
      };
      const worker = new Worker(program, { eval: true, workerData });
      const uri = await new Promise<string>((resolve, reject) => {
        worker.once('message', resolve);
        worker.once('error', reject);
      });
      const device = await NbdDevice.open(uri, { reconnectMs: 0 });
      let writes = 0;
      const writing = Array.from({ length: 32 }, async () => {
        for (;;) {
          await device.write(0, new Uint8Array(BLOCK));
          writes++;
        }
      });
      const ended = Promise.allSettled(writing);
      await expect.poll(() => writes).toBeGreaterThan(100);
      await worker.terminate();
      await ended;
      await device.close().catch(() => {});
    }
  },
  60_000,
);
