import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { MemoryDevice } from '#src/devices/memory';
import { NbdDevice } from '#src/nbd/client/device';
import {
  Command,
  CommandFlag,
  Errno,
  Option,
  OPTION_MAGIC,
  SERVER_MAGIC,
  TransmissionFlag,
} from '#src/nbd/protocol';
import { NbdServer } from '#src/nbd/server/server';
import { differenceAt, randomBytes, readBytes } from '../support/bytes.js';
import { makeCertificates, type Certificates } from '../support/certificates.js';
import { temporaryDirectory } from '../support/directory.js';
import {
  freePort,
  startNbdkit,
  startNbdServer,
  startPeer,
  startQemuNbd,
  type NbdPeer,
} from '../support/nbd-peers.js';
import { needs } from '../support/needs.js';
import { tableOf } from './haggler.js';
import {
  chunk,
  CONTEXT,
  everything,
  ScriptedServer,
  simple,
  success,
  u16,
  u32,
  u64,
  type Asked,
} from './scripted-server.js';

const MiB = 2 ** 20;

describe('opening', () => {
  test('where nobody listens fails with CONNECTION_FAILED', async () => {
    await using directory = temporaryDirectory();
    const uris = [`nbd+unix:///?socket=${directory.file('none')}`, `nbd://localhost:${await freePort()}/`];
    for (const uri of uris) {
      await expect(NbdDevice.open(uri)).rejects.toMatchObject({
        code: 'CONNECTION_FAILED',
        message: expect.stringMatching(/cannot be reached: .*(ENOENT|ECONNREFUSED)/),
        device: uri,
      });
    }
  });

  test('what is no URI of NBD, and options out of range, are refused', async () => {
    await using server = await ScriptedServer.start();
    await expect(NbdDevice.open('http://localhost/')).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
    const bad = [
      { connections: 0 },
      { connections: 17 },
      { connections: 1.5 },
      { reconnectMs: -1 },
      { reconnectMs: NaN },
    ];
    for (const options of bad) {
      await expect(NbdDevice.open(server.uri, options)).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
    }
    expect(server.accepted).toBe(0);
  });

  const unknown: [tool: string, start: () => Promise<NbdPeer>][] = [
    ['qemu-nbd', () => startQemuNbd(MiB, '--export-name=disk')],
    ['nbd-server', () => startNbdServer(MiB)],
  ];
  for (const [tool, start] of unknown) {
    needs(tool)(`an export that ${tool} does not have fails with UNKNOWN_EXPORT`, async () => {
      await using peer = await start();
      const uri = peer.uri.replace(/\/(disk)?(\?|$)/, '/nothing$2');
      await expect(NbdDevice.open(uri)).rejects.toMatchObject({
        code: 'UNKNOWN_EXPORT',
        message: expect.stringMatching(/"nothing"/),
      });
    });
  }

  test('a server that knows no GO is asked by name', async () => {
    await using server = await ScriptedServer.start({ knowsNoGo: true });
    await using device = await NbdDevice.open(server.uri);
    expect(device.sizeBytes).toBe(MiB);
    await device.read(0, new Uint8Array(512));
    expect(server.count(Command.Read)).toBe(1);
  });

  test('a server that pads its answer with zeros is understood', async () => {
    const padding = Buffer.concat([
      Buffer.alloc(8 - 3),
      u32(MiB).subarray(1),
      u16(everything),
      Buffer.alloc(124),
    ]);
    await using server = await ScriptedServer.start({
      greeting: Buffer.concat([u64(SERVER_MAGIC), u64(OPTION_MAGIC), u16(1)]),
      knowsNoGo: true,
      answerOption: (option) => (option === Option.ExportName ? padding : undefined),
    });
    await using device = await NbdDevice.open(server.uri);
    expect(device.sizeBytes).toBe(MiB);
    await device.write(0, new Uint8Array(512));
    expect(server.count(Command.Write)).toBe(1);
  });
});

describe('capabilities', () => {
  const { HasFlags, ReadOnly, SendFua, SendTrim, SendWriteZeroes, CanMultiConn } = TransmissionFlag;
  const none = { readOnly: false, fua: false, trim: false, fastZero: false, multiConnection: false };
  test.each([
    [HasFlags, none],
    [HasFlags | ReadOnly, { ...none, readOnly: true }],
    [HasFlags | SendFua, { ...none, fua: true }],
    [HasFlags | SendTrim, { ...none, trim: true }],
    [HasFlags | SendWriteZeroes, { ...none, fastZero: true }],
    [HasFlags | CanMultiConn, { ...none, multiConnection: true }],
  ])('follow from the flags %i', async (flags, expected) => {
    await using server = await ScriptedServer.start({ flags, blockSizes: [1, 65_536, 2 ** 32 - 1] });
    await using device = await NbdDevice.open(server.uri);
    expect(device.capabilities).toEqual({ ...expected, preferredBlockBytes: 65_536 });
    expect(device.nativeSource).toBeUndefined();
  });

  test('what the server cannot do is not asked of it', async () => {
    await using server = await ScriptedServer.start({ flags: HasFlags });
    await using device = await NbdDevice.open(server.uri);
    await device.trim(0, 4096);
    await device.flush();
    await device.writeZeroes(0, (3 * MiB) / 4, { fua: true, mayTrim: false });
    await device.write(0, new Uint8Array(512), { fua: true });
    expect(new Set(server.asked.map(({ command }) => command))).toEqual(new Set([Command.Write]));
    expect(server.asked.every(({ flags }) => flags === 0)).toBe(true);
  });

  test('what it can do is: FUA, NO_HOLE', async () => {
    await using server = await ScriptedServer.start();
    await using device = await NbdDevice.open(server.uri);
    await device.write(0, new Uint8Array(512), { fua: true });
    await device.writeZeroes(0, 512, { fua: true });
    await device.writeZeroes(0, 512, { mayTrim: false });
    await device.writeZeroes(0, 512, { mayTrim: true });
    expect(server.asked.map(({ flags }) => flags)).toEqual([
      CommandFlag.Fua,
      CommandFlag.Fua,
      CommandFlag.NoHole,
      0,
    ]);
  });

  test('FUA without FUA is a write and then a flush', async () => {
    await using server = await ScriptedServer.start({ flags: everything & ~SendFua });
    await using device = await NbdDevice.open(server.uri);
    await device.write(0, new Uint8Array(512), { fua: true });
    expect(server.asked.map(({ command, flags }) => [command, flags])).toEqual([
      [Command.Write, 0],
      [Command.Flush, 0],
    ]);
  });
});

describe('what a server refuses', () => {
  test.each([
    [Errno.EPERM, 'READ_ONLY'],
    [Errno.EIO, 'DEVICE_IO'],
    [Errno.EINVAL, 'DEVICE_IO'],
    [Errno.ENOSPC, 'DEVICE_FULL'],
    [Errno.ENOTSUP, 'DEVICE_UNSUPPORTED'],
    [4711, 'DEVICE_IO'],
  ])('error %i becomes %s, in simple and in structured replies', async (errno, code) => {
    for (const structured of [true, false]) {
      const answer = (to: Asked): Buffer =>
        structured ? chunk(to, 2 ** 15 + 1, u32(errno), u16(0)) : simple(to, errno);
      await using server = await ScriptedServer.start({ structured, answer });
      await using device = await NbdDevice.open(server.uri);
      const range = { device: device.name, offsetBytes: 512, lengthBytes: 1024 };
      await expect(device.write(512, new Uint8Array(1024))).rejects.toMatchObject({ code, ...range });
      await expect(device.read(512, new Uint8Array(1024))).rejects.toMatchObject({ code, ...range });
    }
  });

  needs('nbdkit')('errors of nbdkit come with its words', async () => {
    await using peer = await startNbdkit('full', '1M');
    await using device = await NbdDevice.open(peer.uri);
    await expect(device.write(0, new Uint8Array(512))).rejects.toMatchObject({ code: 'DEVICE_FULL' });
    await device.read(0, new Uint8Array(512));
  });
});

describe('requests on the wire', () => {
  test('those of the same turn leave together', async () => {
    await using server = await ScriptedServer.start();
    await using device = await NbdDevice.open(server.uri);
    await Promise.all(Array.from({ length: 32 }, (_, i) => device.read(i * 4096, new Uint8Array(4096))));
    expect(server.asked[0]?.behindBytes).toBe(31 * 28);
    expect(server.asked.map(({ offset }) => offset)).toEqual(Array.from({ length: 32 }, (_, i) => i * 4096));
  });

  test('answers may come in any order', async () => {
    const held: Asked[] = [];
    const answer = (to: Asked, by: ScriptedServer): undefined => {
      held.push(to);
      if (held.length < 8) return;
      for (const one of held.reverse()) {
        const reply = success(one);
        reply.fill(one.offset / 4096, reply.length - one.length);
        by.say(reply);
      }
    };
    await using server = await ScriptedServer.start({ answer });
    await using device = await NbdDevice.open(server.uri);
    const buffers = Array.from({ length: 8 }, () => new Uint8Array(4096));
    await Promise.all(buffers.map((into, i) => device.read(i * 4096, into)));
    buffers.forEach((into, i) => expect(differenceAt(into, new Uint8Array(4096).fill(i))).toBeUndefined());
  });

  test('are split where the server sets a limit, and else at 32 MiB', async () => {
    await using small = await ScriptedServer.start({ blockSizes: [1, 4096, 10_000] });
    await using device = await NbdDevice.open(small.uri);
    await device.read(5, new Uint8Array(25_000));
    await device.write(5, new Uint8Array(25_000));
    await device.writeZeroes(5, 25_000);
    for (const command of [Command.Read, Command.Write, Command.WriteZeroes]) {
      const asked = small.asked.filter((one) => one.command === command);
      expect(asked.map(({ offset, length }) => [offset, length])).toEqual([
        [5, 10_000],
        [10_005, 10_000],
        [20_005, 5000],
      ]);
    }
    await using large = await ScriptedServer.start({ sizeBytes: 2 ** 40 });
    await using disk = await NbdDevice.open(large.uri);
    await disk.writeZeroes(0, 40 * MiB);
    expect(large.asked.map(({ length }) => length)).toEqual([32 * MiB, 8 * MiB]);
  });

  test('reach offsets of up to 2^53', async () => {
    await using server = await ScriptedServer.start({ sizeBytes: 2 ** 53 - 1 });
    await using device = await NbdDevice.open(server.uri);
    await device.read(2 ** 53 - 1025, new Uint8Array(1024));
    expect(server.asked[0]?.offset).toBe(2 ** 53 - 1025);
  });

  test('go over as many connections as the load asks for and the server allows', async () => {
    const load = async (flags: number, connections: number): Promise<number> => {
      await using server = await ScriptedServer.start({ flags });
      await using device = await NbdDevice.open(server.uri, { connections });
      for (let round = 0; round < 20; round++) {
        const reads = Array.from({ length: 65 }, () => device.read(0, new Uint8Array(512)));
        // The first connection is the busiest now, and flushes go over it all the same.
        await Promise.all([...reads, device.flush()]);
      }
      const flushed = server.asked.filter(({ command }) => command === Command.Flush);
      expect(flushed.every(({ connection }) => connection === 0)).toBe(true);
      return new Set(server.asked.map(({ connection }) => connection)).size;
    };
    const multi = everything | TransmissionFlag.CanMultiConn;
    expect(await load(multi, 3)).toBe(3);
    expect(await load(multi, 1)).toBe(1);
    expect(await load(everything, 3)).toBe(1);
  });

  test('read and write shared memory', async () => {
    await using memory = new MemoryDevice(MiB);
    await using directory = temporaryDirectory();
    await using server = await NbdServer.listen({
      exports: tableOf([{ name: 'disk', device: memory }]),
      listen: { kind: 'unix', path: directory.file('nbd.sock') },
    });
    await using device = await NbdDevice.open(server.uriOf('disk'));
    for (const lengthBytes of [1000, 700_000]) {
      const bytes = new Uint8Array(new SharedArrayBuffer(lengthBytes));
      bytes.set(randomBytes(lengthBytes, lengthBytes));
      await device.write(777, bytes);
      const into = new Uint8Array(new SharedArrayBuffer(lengthBytes));
      await device.read(777, into);
      expect(differenceAt(into, bytes)).toBeUndefined();
    }
  });
});

test('a part of a block is written with what is around it, and changes of one block wait for each other', async () => {
  const disk = randomBytes(4 * 4096, 1);
  const answer = (to: Asked): Buffer => {
    expect([to.offset % 4096, to.length % 4096]).toEqual([0, 0]);
    if (to.command === Command.Write) disk.set(to.payload, to.offset);
    if (to.command === Command.WriteZeroes) disk.fill(0, to.offset, to.offset + to.length);
    const reply = success(to);
    if (to.command === Command.Read)
      reply.set(disk.subarray(to.offset, to.offset + to.length), reply.length - to.length);
    return reply;
  };
  // The last half block cannot be asked for.
  const script = {
    sizeBytes: 4 * 4096 + 2048,
    blockSizes: [4096, 4096, 8192] as [number, number, number],
    answer,
  };
  await using server = await ScriptedServer.start(script);
  await using device = await NbdDevice.open(server.uri);
  expect(device.sizeBytes).toBe(4 * 4096);
  const expected = disk.slice();
  await Promise.all(
    Array.from({ length: 40 }, (_, i) => {
      const bytes = new Uint8Array(400).fill(i);
      expected.set(bytes, i * 400);
      return device.write(i * 400, bytes);
    }),
  );
  await device.writeZeroes(100, 9000);
  expected.fill(0, 100, 9100);
  await device.writeZeroes(12_300, 10);
  expected.fill(0, 12_300, 12_310);
  expect(differenceAt(disk, expected)).toBeUndefined();
  expect(differenceAt(await readBytes(device, 3, 16_000), expected.subarray(3, 16_003))).toBeUndefined();
  server.asked.length = 0;
  await device.trim(100, 9000);
  expect(server.asked.map(({ offset, length }) => [offset, length])).toEqual([[4096, 4096]]);
});

test('allocation is asked for until it is known, and only what is said to be zeros is', async () => {
  const extents = [u32(100), u32(0), u32(200), u32(1), u32(300), u32(3), u32(400), u32(2)];
  const answers = [Buffer.concat([...extents]), Buffer.concat([u32(24), u32(2), u32(2 ** 30), u32(2)])];
  const answer = (to: Asked): Buffer => chunk(to, 5, u32(CONTEXT), answers.shift() ?? Buffer.alloc(0));
  await using server = await ScriptedServer.start({ answer });
  await using device = await NbdDevice.open(server.uri);
  expect(await device.allocation(512, 2048)).toEqual([
    { offsetBytes: 512, lengthBytes: 300, kind: 'data' },
    { offsetBytes: 812, lengthBytes: 1748, kind: 'zero' },
  ]);
  expect(server.asked.map(({ offset, length }) => [offset, length])).toEqual([
    [512, 2048],
    [1512, 1048],
  ]);
});

needs('qemu-nbd')('holes of a file behind qemu-nbd are zeros', async () => {
  await using peer = await startQemuNbd(MiB);
  await using device = await NbdDevice.open(peer.uri);
  await device.writeZeroes(0, MiB);
  await device.write(512 * 1024, new Uint8Array(65_536).fill(1));
  expect(await device.allocation(0, MiB)).toEqual([
    { offsetBytes: 0, lengthBytes: 512 * 1024, kind: 'zero' },
    { offsetBytes: 512 * 1024, lengthBytes: 65_536, kind: 'data' },
    { offsetBytes: 576 * 1024, lengthBytes: 448 * 1024, kind: 'zero' },
  ]);
  expect((await readFile(peer.directory.file('disk.img'))).subarray(0, 10)).toEqual(Buffer.alloc(10));
});

describe('TLS', () => {
  const tlsTest = needs('openssl');
  const directory = temporaryDirectory();
  let certificates: Certificates;
  beforeAll(async () => {
    certificates = await makeCertificates(directory.path);
  });
  afterAll(() => directory[Symbol.asyncDispose]());

  /** A server of this project, which demands certificates of its clients. */
  async function ownServer(folder: string, device: MemoryDevice): Promise<NbdServer> {
    return await NbdServer.listen({
      exports: tableOf([{ name: 'disk', device }]),
      listen: { kind: 'tcp', host: '127.0.0.1', port: 0 },
      tls: { mode: 'required', certificates: folder },
    });
  }

  const withCertificates = (uri: string, folder: string): string => `${uri}?tls-certificates=${folder}`;

  tlsTest('carries whatever is sent', async () => {
    await using memory = new MemoryDevice(MiB);
    await using server = await ownServer(certificates.server, memory);
    await using device = await NbdDevice.open(withCertificates(server.uriOf('disk'), certificates.client));
    const bytes = randomBytes(900_000, 1);
    await device.write(1, bytes, { fua: true });
    expect(differenceAt(await readBytes(device, 1, 900_000), bytes)).toBeUndefined();
    expect(differenceAt(await readBytes(memory, 1, 900_000), bytes)).toBeUndefined();
    server.disconnect();
    expect(differenceAt(await readBytes(device, 1, 900_000), bytes)).toBeUndefined();
  });

  tlsTest('a server that cannot prove who it is is refused', async () => {
    await using memory = new MemoryDevice(MiB);
    await using server = await ownServer(certificates.openServer, memory);
    const uri = server.uriOf('disk');
    const port = new URL(uri).port;
    // No authority, so that of the system; the wrong name, as the certificate is for localhost and 127.0.0.1.
    const wrong = [uri, withCertificates(`nbds://127.0.0.2:${port}/disk`, certificates.anonymousClient)];
    await using _elsewhere = await listenElsewhere(memory, Number(port), certificates.openServer);
    for (const one of wrong) {
      await expect(NbdDevice.open(one)).rejects.toMatchObject({
        code: 'CONNECTION_FAILED',
        message: expect.stringMatching(/TLS was not established/),
      });
    }
    await using device = await NbdDevice.open(withCertificates(uri, certificates.anonymousClient));
    await device.read(0, new Uint8Array(512));
  });

  function listenElsewhere(device: MemoryDevice, port: number, folder: string): Promise<NbdServer> {
    return NbdServer.listen({
      exports: tableOf([{ name: 'disk', device }]),
      listen: { kind: 'tcp', host: '127.0.0.2', port },
      tls: { mode: 'required', certificates: folder },
    });
  }

  tlsTest('a client that cannot prove who it is is told so', async () => {
    await using memory = new MemoryDevice(MiB);
    await using server = await ownServer(certificates.server, memory);
    for (const folder of [certificates.anonymousClient, certificates.stranger]) {
      await expect(NbdDevice.open(withCertificates(server.uriOf('disk'), folder))).rejects.toMatchObject({
        code: 'CONNECTION_FAILED',
      });
    }
  });

  tlsTest('a server that demands it tells a client in the clear', async () => {
    await using memory = new MemoryDevice(MiB);
    await using server = await ownServer(certificates.server, memory);
    await expect(NbdDevice.open(server.uriOf('disk').replace('nbds:', 'nbd:'))).rejects.toMatchObject({
      code: 'CONNECTION_FAILED',
      message: expect.stringMatching(/demands TLS.*nbds/),
    });
  });

  needs('openssl', 'nbdkit')('nbdkit, over a Unix socket and over TCP', async () => {
    const flags = ['--tls=require', `--tls-certificates=${certificates.server}`, '--tls-verify-peer'];
    await using unix = await startNbdkit(...flags, 'memory', '1M');
    const port = await freePort();
    await using _tcp = await startPeer(() => ({
      address: { kind: 'tcp', host: '127.0.0.1', port },
      command: 'nbdkit',
      args: [
        '--foreground',
        '--exit-with-parent',
        '--ipaddr=127.0.0.1',
        `--port=${port}`,
        ...flags,
        'memory',
        '1M',
      ],
    }));
    const parameter = `tls-certificates=${certificates.client}`;
    const uris = [
      `${unix.uri.replace('nbd+', 'nbds+')}&${parameter}`,
      `nbds://localhost:${port}/?${parameter}`,
    ];
    for (const uri of uris) {
      await using device = await NbdDevice.open(uri);
      const bytes = randomBytes(100_000, 3);
      await device.write(5, bytes);
      expect(differenceAt(await readBytes(device, 5, 100_000), bytes)).toBeUndefined();
      await device.flush();
    }
  });
});
