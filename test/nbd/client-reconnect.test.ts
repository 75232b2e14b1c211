import { rm, truncate } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { NbdDevice } from '#src/nbd/client/device';
import { Command, Errno, TransmissionFlag } from '#src/nbd/protocol';
import { differenceAt, randomBytes, readBytes } from '../support/bytes.js';
import { isSettled, ManualClock, turns } from '../support/manual-clock.js';
import { startNbdkitFile, startNbdServer, startQemuNbd, type NbdPeer } from '../support/nbd-peers.js';
import { needs } from '../support/needs.js';
import { chunk, everything, ScriptedServer, success, u16, u32, type Asked } from './scripted-server.js';

const lost = { code: 'CONNECTION_LOST' };
const sector = (): Uint8Array<ArrayBuffer> => new Uint8Array(512).fill(1);

/** Waits until as many requests of a kind have come. */
async function asked(server: ScriptedServer, command: number, times = 1): Promise<void> {
  while (server.count(command) < times) await turns();
}

/** Sends reads, which the server leaves unanswered, until they come over as many connections. */
async function readsOver(
  server: ScriptedServer,
  device: NbdDevice,
  connections: number,
): Promise<Promise<void>[]> {
  const reads: Promise<void>[] = [];
  while (!server.asked.some(({ connection }) => connection === connections - 1)) {
    for (let i = 0; i < 10; i++) reads.push(device.read(0, sector()));
    await turns();
  }
  return reads;
}

const peers: [name: string, tool: string, start: () => Promise<NbdPeer>][] = [
  ['qemu-nbd', 'qemu-nbd', () => startQemuNbd(2 ** 20)],
  ['nbdkit', 'nbdkit', () => startNbdkitFile(2 ** 20)],
  ['nbd-server', 'nbd-server', () => startNbdServer(2 ** 20, 'flush = true', 'fua = true')],
];

describe('a server that is killed and started again', () => {
  for (const [name, tool, start] of peers) {
    needs(tool)(`${name}: what was flushed is there, and requests wait meanwhile`, async () => {
      await using peer = await start();
      await using device = await NbdDevice.open(peer.uri, { reconnectMs: 60_000 });
      const bytes = randomBytes(100_000, 1);
      await device.write(5000, bytes);
      await device.flush();
      await peer.kill();
      if (tool !== 'nbd-server') await rm(peer.directory.file('nbd.sock'), { force: true });
      const read = readBytes(device, 5000, 100_000);
      const write = device.write(300_000, bytes).catch((error: unknown) => error);
      // The server is away: nothing can have been answered.
      expect(await isSettled(read)).toBe(false);
      await peer.restart();
      expect(differenceAt(await read, bytes)).toBeUndefined();
      // It was either sent before the loss was known, or after the server had come back.
      expect([undefined, expect.objectContaining(lost)]).toContainEqual(await write);
      await device.write(300_000, bytes);
      await device.flush().catch((error: unknown) => expect(error).toMatchObject(lost));
      expect(differenceAt(await readBytes(device, 300_000, 100_000), bytes)).toBeUndefined();
      await device.flush();
    });
  }

  needs('qemu-nbd')('one that comes back with another size is not used any more', async () => {
    await using peer = await startQemuNbd(2 ** 20);
    await using device = await NbdDevice.open(peer.uri);
    await peer.kill();
    await truncate(peer.directory.file('disk.img'), 2 ** 21);
    await peer.restart();
    for (let i = 0; i < 2; i++) {
      await expect(device.read(0, sector())).rejects.toMatchObject({
        code: 'PROTOCOL_ERROR',
        message: expect.stringMatching(/sizeBytes was 1048576 and is 2097152/),
      });
    }
  });
});

describe('requests in flight when the connection is lost', () => {
  const repeated: [name: string, command: number, send: (device: NbdDevice) => Promise<unknown>][] = [
    ['a read', Command.Read, (device) => device.read(0, sector())],
    ['an allocation request', Command.BlockStatus, (device) => device.allocation(0, 512)],
    ['a flush with nothing to flush', Command.Flush, (device) => device.flush()],
  ];
  test.each(repeated)('%s is sent again', async (_name, command, send) => {
    await using server = await ScriptedServer.start({ answer: () => undefined });
    await using device = await NbdDevice.open(server.uri);
    const sent = send(device);
    await asked(server, command);
    server.script = {};
    server.drop();
    await sent;
    expect(server.count(command)).toBe(2);
    expect(server.accepted).toBe(2);
  });

  const final: [name: string, command: number, send: (device: NbdDevice) => Promise<unknown>][] = [
    ['a write', Command.Write, (device) => device.write(0, sector())],
    ['a durable write', Command.Write, (device) => device.write(0, sector(), { fua: true })],
    ['a trim', Command.Trim, (device) => device.trim(0, 512)],
    ['zeroing', Command.WriteZeroes, (device) => device.writeZeroes(0, 512)],
  ];
  test.each(final)('%s fails, and is not sent again', async (_name, command, send) => {
    await using server = await ScriptedServer.start({ answer: () => undefined });
    await using device = await NbdDevice.open(server.uri);
    const sent = send(device);
    await asked(server, command);
    server.script = {};
    server.drop();
    await expect(sent).rejects.toMatchObject({ ...lost, offsetBytes: 0, lengthBytes: 512 });
    await device.read(0, sector());
    expect(server.count(command)).toBe(1);
  });

  test('half a reply to a read leaves no trace in the second one', async () => {
    const answer = (to: Asked): Buffer => success(to).subarray(0, 300);
    await using server = await ScriptedServer.start({ answer });
    await using device = await NbdDevice.open(server.uri);
    const read = device.read(0, new Uint8Array(4096));
    await asked(server, Command.Read);
    await turns();
    server.script = {};
    server.drop();
    await read;
    expect(server.count(Command.Read)).toBe(2);
  });
});

describe('flushes after a loss', () => {
  async function afterLoss(work: (device: NbdDevice) => Promise<void>, flags?: number): Promise<string[]> {
    await using server = await ScriptedServer.start(flags === undefined ? {} : { flags });
    await using device = await NbdDevice.open(server.uri);
    await work(device);
    server.drop();
    await device.read(0, sector()); // Only now the loss is known for certain.
    const flush = (): Promise<string> =>
      device.flush().then(
        () => 'ok',
        (error: unknown) => String((error as { code?: string }).code),
      );
    return [...(await Promise.all([flush(), flush()])), await flush()];
  }

  test('fail, all that were sent at once, if a write was answered and not flushed', async () => {
    const outcome = ['CONNECTION_LOST', 'CONNECTION_LOST', 'ok'];
    expect(await afterLoss((device) => device.write(0, sector()))).toEqual(outcome);
    expect(await afterLoss((device) => device.writeZeroes(0, 512))).toEqual(outcome);
  });

  test('fail if a write was answered after the last flush', async () => {
    const outcome = await afterLoss(async (device) => {
      await device.write(0, sector());
      await device.flush();
      await device.write(0, sector());
    });
    expect(outcome[0]).toBe('CONNECTION_LOST');
  });

  test('fail if a write was answered in the same packet that ended the connection', async () => {
    const answer = (to: Asked): Buffer =>
      to.command === Command.Write ? Buffer.concat([success(to), Buffer.alloc(16)]) : success(to);
    await using server = await ScriptedServer.start({ answer });
    await using device = await NbdDevice.open(server.uri);
    await device.write(0, sector());
    await expect(device.flush()).rejects.toMatchObject(lost);
    await device.flush();
  });

  test('fail too where the server knows no flush', async () => {
    const flags = TransmissionFlag.HasFlags;
    expect((await afterLoss((device) => device.write(0, sector()), flags))[0]).toBe('CONNECTION_LOST');
  });

  const harmless: [name: string, work: (device: NbdDevice) => Promise<void>][] = [
    ['nothing was written', (device) => device.read(0, sector())],
    ['all was flushed', (device) => device.write(0, sector()).then(() => device.flush())],
    ['all was written with FUA', (device) => device.write(0, sector(), { fua: true })],
    ['all that was done was to trim', (device) => device.trim(0, 512)],
  ];
  test.each(harmless)('succeed if %s', async (_name, work) => {
    expect(await afterLoss(work)).toEqual(['ok', 'ok', 'ok']);
  });

  test('one that was in flight at the loss fails though its repetition succeeds', async () => {
    await using server = await ScriptedServer.start();
    await using device = await NbdDevice.open(server.uri);
    await device.write(0, sector());
    server.script = { answer: () => undefined };
    const flush = device.flush();
    await asked(server, Command.Flush);
    server.script = {};
    server.drop();
    await expect(flush).rejects.toMatchObject(lost);
    expect(server.count(Command.Flush)).toBe(2);
    await device.flush();
  });

  test('a write that is made durable by a flush fails if the connection is lost in between', async () => {
    const flags = everything & ~TransmissionFlag.SendFua;
    const answer = (to: Asked): Buffer | undefined =>
      to.command === Command.Flush ? undefined : success(to);
    await using server = await ScriptedServer.start({ flags, answer });
    await using device = await NbdDevice.open(server.uri);
    const write = device.write(0, sector(), { fua: true });
    await asked(server, Command.Flush);
    server.script = { flags };
    server.drop();
    await expect(write).rejects.toMatchObject(lost);
    expect(server.asked[0]?.flags).toBe(0);
  });

  test('losing one of several connections counts as losing all', async () => {
    const flags = everything | TransmissionFlag.CanMultiConn;
    const answer = (to: Asked): Buffer | undefined => (to.command === Command.Read ? undefined : success(to));
    await using server = await ScriptedServer.start({ flags, answer });
    await using device = await NbdDevice.open(server.uri, { connections: 2 });
    await device.write(0, sector());
    const reads = await readsOver(server, device, 2);
    server.script = { flags };
    server.drop(1);
    await Promise.all(reads);
    await expect(device.flush()).rejects.toMatchObject(lost);
  });
});

describe('a server that stays away', () => {
  test('what waits fails after the time given, with pauses in between; the next request tries anew', async () => {
    const clock = new ManualClock();
    await using server = await ScriptedServer.start();
    await using device = await NbdDevice.open(server.uri, { clock, reconnectMs: 3000 });
    await server.die();
    while (server.connections > 0) await turns();
    const waiting = [device.read(0, sector()), device.flush(), device.allocation(0, 512)];
    for (let i = 0; i < 10; i++) await turns();
    await clock.advance(2999);
    for (const request of waiting) expect(await isSettled(request)).toBe(false);
    await clock.advance(1);
    for (const request of waiting) {
      await expect(request).rejects.toMatchObject({
        code: 'CONNECTION_FAILED',
        message: expect.stringMatching(/did not come back within 3000 ms/),
      });
    }
    await server.listen();
    await device.write(0, sector());
    expect(server.count(Command.Write)).toBe(1);
    // The one that opened it, the one that wrote: nobody tried while nobody asked.
    expect(server.accepted).toBe(2);
  });

  test('one that drops every connection at the first read is given up, too', async () => {
    const clock = new ManualClock();
    const answer = (_asked: Asked, dropping: ScriptedServer): undefined => {
      dropping.drop();
    };
    await using server = await ScriptedServer.start({ answer });
    await using device = await NbdDevice.open(server.uri, { clock, reconnectMs: 3000 });
    const read = device.read(0, sector());
    read.catch(() => {});
    while (!(await isSettled(read))) await clock.advance(10);
    await expect(read).rejects.toMatchObject({ code: 'CONNECTION_FAILED' });
    expect(clock.nowMs()).toBeGreaterThanOrEqual(3000);
    // With pauses of 50, 100, 200, 400, 800, 1000 ms it does not get further.
    expect(server.accepted).toBeLessThan(12);
  });

  test('with no time given it is not waited for', async () => {
    await using server = await ScriptedServer.start();
    await using device = await NbdDevice.open(server.uri, { reconnectMs: 0 });
    server.drop();
    while (server.connections > 0) await turns();
    await expect(device.read(0, sector())).rejects.toMatchObject({ code: 'CONNECTION_FAILED' });
    expect(server.accepted).toBe(1);
  });

  test('closing does not wait for it', async () => {
    await using server = await ScriptedServer.start();
    await using device = await NbdDevice.open(server.uri, { clock: new ManualClock() });
    await server.die();
    const read = device.read(0, sector());
    const refused = expect(read).rejects.toMatchObject({ code: 'DEVICE_CLOSED' });
    await turns();
    await device.close();
    await refused;
  });

  test('closing gives up a server that does not answer after 10 s', async () => {
    const clock = new ManualClock();
    await using server = await ScriptedServer.start({ answer: () => undefined });
    await using device = await NbdDevice.open(server.uri, { clock });
    const write = device.write(0, sector());
    const refused = expect(write).rejects.toMatchObject(lost);
    await asked(server, Command.Write);
    const closing = device.close();
    await clock.advance(9999);
    expect(await isSettled(closing)).toBe(false);
    await clock.advance(1);
    await refused;
    await closing;
    expect(clock.timers).toBe(0);
  });
});

test('what a server refuses because it shuts down is sent again to its successor, writes too', async () => {
  const shutdown = (to: Asked): Buffer => chunk(to, 2 ** 15 + 1, u32(Errno.ESHUTDOWN), u16(0));
  const answer = (to: Asked): Buffer => (to.connection === 0 ? shutdown(to) : success(to));
  await using server = await ScriptedServer.start({ answer });
  await using device = await NbdDevice.open(server.uri);
  await Promise.all([device.write(0, sector()), device.read(0, sector()), device.trim(0, 512)]);
  const before = server.asked.filter(({ connection }) => connection === 0);
  expect(before.at(-1)?.command).toBe(Command.Disconnect);
  expect(server.asked.filter(({ connection }) => connection === 1)).toHaveLength(3);
  await device.flush();
});

test('a successor is not asked while the server that shuts down still works', async () => {
  const answer = (to: Asked): Buffer | undefined => {
    if (to.connection > 0) return success(to);
    return to.command === Command.Write ? undefined : chunk(to, 2 ** 15 + 1, u32(Errno.ESHUTDOWN), u16(0));
  };
  await using server = await ScriptedServer.start({ answer });
  await using device = await NbdDevice.open(server.uri);
  const write = device.write(0, sector());
  const read = device.read(0, sector());
  await asked(server, Command.Read);
  await asked(server, Command.Write);
  expect(await isSettled(read)).toBe(false);
  expect(server.accepted).toBe(1);
  const held = server.asked.find(({ command }) => command === Command.Write);
  if (held) server.sayTo(0, success(held));
  await Promise.all([write, read]);
  expect(server.accepted).toBe(2);
  // The server that was left had answered the write and may have lost it.
  await expect(device.flush()).rejects.toMatchObject(lost);
});

test('a device that is closed says goodbye on every connection', async () => {
  const flags = everything | TransmissionFlag.CanMultiConn;
  await using server = await ScriptedServer.start({ flags, answer: () => undefined });
  const device = await NbdDevice.open(server.uri, { connections: 3 });
  const reads = await readsOver(server, device, 3);
  server.script = { flags };
  for (const to of server.asked) server.sayTo(to.connection, success(to));
  await Promise.all(reads);
  await device.close();
  while (server.connections > 0) await turns();
  expect(server.count(Command.Disconnect)).toBe(3);
});
