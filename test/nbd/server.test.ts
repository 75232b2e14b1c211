import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { readdir, readFile, rename } from 'node:fs/promises';
import net from 'node:net';
import { describe, expect, test } from 'vitest';
import { MemoryDevice } from '#src/devices/memory';
import { Command, Errno, Length, Option, OptionReply, SIMPLE_REPLY_MAGIC } from '#src/nbd/protocol';
import { NbdServer } from '#src/nbd/server/server';
import { temporaryDirectory } from '../support/directory.js';
import { GatedDevice } from '../support/gated-device.js';
import { isSettled, ManualClock, turns } from '../support/manual-clock.js';
import { encodeInfo, encodeOption, Haggler, serve, tableOf } from './haggler.js';
import { encodeRequest } from './wire.js';

const HANDSHAKE_MS = 10_000;
const DRAIN_MS = 10_000;

const disk = { name: 'disk', device: new MemoryDevice(4096) };
const other = { name: 'other', device: new MemoryDevice(4096) };
const exports = tableOf([disk, other]);

async function open(client: Haggler, name: string): Promise<void> {
  expect(await client.verdict(Option.Go, encodeInfo(name))).toBe(OptionReply.Ack);
}

/** Asks for a flush and expects its answer. */
async function expectAlive(client: Haggler): Promise<void> {
  client.stream.write(encodeRequest({ command: Command.Flush, cookie: 3n }));
  const reply = await client.read(Length.SimpleReply);
  expect([reply.readUInt32BE(0), reply.readUInt32BE(4)]).toEqual([SIMPLE_REPLY_MAGIC, Errno.Ok]);
}

describe('half-open connections', () => {
  test.each<[string, Buffer]>([
    ['nothing', Buffer.alloc(0)],
    ['half of its flags', Buffer.alloc(2)],
    [
      'half an option',
      Buffer.concat([Buffer.from([0, 0, 0, 3]), encodeOption(99, Buffer.alloc(9)).subarray(0, 20)]),
    ],
  ])('a client that sends %s is dropped when its time is over', async (_, bytes) => {
    const clock = new ManualClock();
    await using served = await serve([disk], { clock });
    using client = await Haggler.connect(served.address);
    await client.read(Length.Greeting);
    client.stream.write(bytes);
    await clock.advance(HANDSHAKE_MS - 1);
    expect(served.server.connections).toBe(1);
    await clock.advance(1);
    await client.rest();
    await expect.poll(() => served.server.connections).toBe(0);
    expect(clock.timers).toBe(0);
  });

  test('the time is for the whole handshake, however busy it is', async () => {
    const clock = new ManualClock();
    await using served = await serve([disk], { clock });
    using client = await served.client();
    await client.ask(Option.List);
    await clock.advance(HANDSHAKE_MS - 1);
    await client.ask(Option.List);
    await clock.advance(1);
    expect(await client.rest()).toHaveLength(0);
  });

  test('a client that aborts and stays is dropped', async () => {
    const clock = new ManualClock();
    await using served = await serve([disk], { clock });
    using client = await served.client();
    await client.ask(Option.Abort);
    expect(served.server.connections).toBe(1);
    await clock.advance(HANDSHAKE_MS);
    await expect.poll(() => served.server.connections).toBe(0);
  });

  test('a client that sends no more in the handshake is dropped at once', async () => {
    await using served = await serve([disk], { clock: new ManualClock() });
    using client = await served.client();
    client.stream.end();
    await client.rest();
    await expect.poll(() => served.server.connections).toBe(0);
  });

  test('in transmission there is no limit', async () => {
    const clock = new ManualClock();
    await using served = await serve([disk], { clock });
    using client = await served.client();
    await open(client, 'disk');
    await clock.advance(100 * HANDSHAKE_MS);
    await expectAlive(client);
  });
});

test('a flood of clients that come and go leaves nothing behind', async () => {
  const clock = new ManualClock();
  await using served = await serve([disk], { clock });
  using witness = await served.client();
  await open(witness, 'disk');
  await turns();
  const before = process.getActiveResourcesInfo().length;
  for (let round = 0; round < 40; round++) {
    const clients = await Promise.all(Array.from({ length: 25 }, () => Haggler.connect(served.address)));
    clients.forEach((client, i) => {
      // Some with a reset, some after a word or two.
      if (i % 3 === 1) client.stream.write(Buffer.from([0, 0, 0, 3]));
      if (i % 3 === 2) client.stream.write(Buffer.from([0, 0, 0, 255]));
      client.socket.destroy();
    });
    // Who is greeted comes after all of them in the queue to be accepted, which has an end.
    using last = await served.client();
    last.socket.destroy();
  }
  await expect.poll(() => served.server.connections).toBe(1);
  await expect.poll(() => process.getActiveResourcesInfo().length).toBeLessThanOrEqual(before);
  expect(clock.timers).toBe(0);
  await expectAlive(witness);
});

test('clients beyond the limit are turned away until one has gone', async () => {
  await using served = await serve([disk], { maxConnections: 2 });
  using first = await served.client();
  using second = await served.client();
  await open(second, 'disk');
  using third = await Haggler.connect(served.address);
  expect(await third.rest()).toHaveLength(0);
  await expectAlive(second);
  first.socket.destroy();
  await expect.poll(() => served.server.connections).toBe(1);
  using fourth = await served.client();
  await open(fourth, 'disk');
});

test('what goes wrong in one connection stays there', async () => {
  const table = {
    list: () => {
      throw new Error('a table that fails');
    },
    find: exports.find,
  };
  await using served = await serve(table);
  using bystander = await served.client();
  using victim = await served.client();
  victim.send(Option.List);
  expect(await victim.rest()).toHaveLength(0);
  await open(bystander, 'disk');
  await expectAlive(bystander);
});

describe('disconnect', () => {
  test('closes the connections of one export only', async () => {
    await using served = await serve([disk, other]);
    using victim = await served.client();
    using bystander = await served.client();
    using haggling = await served.client();
    await open(victim, 'disk');
    await open(bystander, 'other');
    await haggling.ask(Option.Info, encodeInfo('disk'));
    served.server.disconnect('disk');
    expect(await victim.rest()).toHaveLength(0);
    await expectAlive(bystander);
    await open(haggling, 'disk');
  });

  test('knows a connection that came by the empty name', async () => {
    await using served = await serve([disk]);
    using victim = await served.client();
    await open(victim, '');
    served.server.disconnect('disk');
    expect(await victim.rest()).toHaveLength(0);
  });

  test('without a name closes all, and new ones may come', async () => {
    await using served = await serve([disk]);
    using victim = await served.client();
    using haggling = await served.client();
    await open(victim, 'disk');
    served.server.disconnect();
    await Promise.all([victim.rest(), haggling.rest()]);
    using next = await served.client();
    expect(await next.verdict(Option.Go, encodeInfo('disk'))).toBe(OptionReply.Ack);
  });

  test('answers nothing that is in flight', async () => {
    const device = new GatedDevice(4096);
    await using served = await serve([{ name: 'gated', device }]);
    using client = await served.client();
    await open(client, 'gated');
    device.shut();
    client.stream.write(encodeRequest({ command: Command.Write, payload: Buffer.alloc(512) }));
    await expect.poll(() => device.log).toHaveLength(1);
    served.server.disconnect('gated');
    device.open();
    expect(await client.rest()).toHaveLength(0);
  });
});

describe('close', () => {
  test('answers what is in flight, drops who is in the handshake, and lets no one in', async () => {
    const device = new GatedDevice(4096);
    await using served = await serve([{ name: 'gated', device }], { clock: new ManualClock() });
    using client = await served.client();
    using haggling = await served.client();
    await open(client, 'gated');
    device.shut();
    client.stream.write(encodeRequest({ command: Command.Write, cookie: 8n, payload: Buffer.alloc(512) }));
    await expect.poll(() => device.log).toHaveLength(1);

    const closing = served.server.close();
    expect(await haggling.rest()).toHaveLength(0);
    await expect(Haggler.connect(served.address)).rejects.toThrow(/ENOENT|ECONNREFUSED/);
    expect(await isSettled(closing)).toBe(false);
    device.open();
    const reply = await client.read(Length.SimpleReply);
    expect([reply.readUInt32BE(4), reply.readBigUInt64BE(8)]).toEqual([Errno.Ok, 8n]);
    client.stream.end();
    await closing;
    expect(served.server.connections).toBe(0);
    expect(existsSync(served.address.kind === 'unix' ? served.address.path : '')).toBe(false);
  });

  test('gives up on what does not end', async () => {
    const clock = new ManualClock();
    const device = new GatedDevice(4096);
    await using served = await serve([{ name: 'gated', device }], { clock });
    using client = await served.client();
    await open(client, 'gated');
    device.shut();
    client.stream.write(encodeRequest({ command: Command.Write, payload: Buffer.alloc(512) }));
    await expect.poll(() => device.log).toHaveLength(1);
    const closing = served.server.close();
    await clock.advance(DRAIN_MS - 1);
    expect(await isSettled(closing)).toBe(false);
    await clock.advance(1);
    await closing;
    expect(await client.rest()).toHaveLength(0);
    device.open();
  });

  test('may be called again, and leaves the devices open', async () => {
    await using served = await serve([disk]);
    await Promise.all([served.server.close(), served.server.close()]);
    await served.server.close();
    await expect(disk.device.flush()).resolves.toBeUndefined();
  });
});

describe('Unix sockets', () => {
  /** A socket on which nobody listens any more, as a killed server leaves it. */
  async function leaveDeadSocket(path: string): Promise<void> {
    const server = net.createServer().listen(`${path}.alive`);
    await once(server, 'listening');
    // Node removes the name that it knows.
    await rename(`${path}.alive`, path);
    server.close();
    await once(server, 'close');
  }

  test('one that a dead server has left is replaced', async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('socket');
    await leaveDeadSocket(path);
    await using server = await NbdServer.listen({ exports, listen: { kind: 'unix', path } });
    using client = await Haggler.greet(server.address);
    await open(client, 'disk');
    expect(await readdir(directory.path)).toEqual(['socket']);
  });

  test('of many servers that replace a dead one at once, one does', async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('socket');
    for (let round = 0; round < 10; round++) {
      await leaveDeadSocket(path);
      const started = await Promise.allSettled(
        Array.from({ length: 5 }, () => NbdServer.listen({ exports, listen: { kind: 'unix', path } })),
      );
      const servers = started.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []));
      const codes = started.flatMap((each) =>
        each.status === 'rejected' ? [(each.reason as { code: string }).code] : [],
      );
      expect(servers).toHaveLength(1);
      expect(codes).toEqual(Array.from({ length: 4 }, () => 'DEVICE_BUSY'));
      using client = await Haggler.greet({ kind: 'unix', path });
      await open(client, 'disk');
      expect(await readdir(directory.path)).toEqual(['socket']);
      client.stream.end();
      await servers[0]?.close();
    }
  });

  test('one that a server listens on is left to it', async () => {
    await using served = await serve([disk]);
    await expect(NbdServer.listen({ exports, listen: served.address })).rejects.toMatchObject({
      code: 'DEVICE_BUSY',
    });
    using client = await served.client();
    await open(client, 'disk');
  });

  test('what is no socket is left alone', async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('file');
    writeFileSync(path, 'precious');
    await expect(NbdServer.listen({ exports, listen: { kind: 'unix', path } })).rejects.toMatchObject({
      code: 'DEVICE_BUSY',
    });
    expect(await readFile(path, 'utf8')).toBe('precious');
  });

  test.each([
    ['with a path that is too long', 'x'.repeat(200)],
    ['in a folder that is not there', 'nowhere/socket'],
  ])('%s are refused', async (_, name) => {
    await using directory = temporaryDirectory();
    const listen = { kind: 'unix', path: directory.file(name) } as const;
    await expect(NbdServer.listen({ exports, listen })).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
  });

  test('their URIs name the socket and the export', async () => {
    await using served = await serve([disk]);
    const path = served.address.kind === 'unix' ? served.address.path : '';
    expect(served.server.uriOf('a/b c')).toBe(`nbd+unix:///a/b%20c?socket=${path}`);
  });
});

describe('TCP', () => {
  test('port 0 is one that is free, and is told', async () => {
    await using server = await NbdServer.listen({
      exports,
      listen: { kind: 'tcp', host: '127.0.0.1', port: 0 },
    });
    const { address } = server;
    expect(address).toEqual({ kind: 'tcp', host: '127.0.0.1', port: expect.toSatisfy((port) => port > 0) });
    using client = await Haggler.greet(address);
    await open(client, 'disk');
    await expectAlive(client);
    expect(server.uriOf('disk')).toBe(`nbd://127.0.0.1:${address.kind === 'tcp' ? address.port : ''}/disk`);
  });

  test('every interface is this machine to a client', async () => {
    await using server = await NbdServer.listen({ exports, listen: { kind: 'tcp', host: '', port: 0 } });
    const port = server.address.kind === 'tcp' ? server.address.port : 0;
    expect(server.uriOf('disk')).toBe(`nbd://localhost:${port}/disk`);
    using client = await Haggler.greet({ kind: 'tcp', host: 'localhost', port });
    await open(client, 'disk');
  });

  test('a port that is in use is refused', async () => {
    await using server = await NbdServer.listen({
      exports,
      listen: { kind: 'tcp', host: '127.0.0.1', port: 0 },
    });
    await expect(NbdServer.listen({ exports, listen: server.address })).rejects.toMatchObject({
      code: 'DEVICE_BUSY',
    });
  });

  test('an address that is not here is refused', async () => {
    const listen = { kind: 'tcp', host: '192.0.2.1', port: 0 } as const;
    await expect(NbdServer.listen({ exports, listen })).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
  });
});
