import { describe, expect, test } from 'vitest';
import { NbdDevice } from '#src/nbd/client/device';
import { InfoType, Option, OPTION_MAGIC, OptionReply, SERVER_MAGIC } from '#src/nbd/protocol';
import { differenceAt, randomBytes } from '../support/bytes.js';
import { ManualClock, isSettled, turns } from '../support/manual-clock.js';
import {
  chunk,
  chunkOf,
  CONTEXT,
  everything,
  optionReply,
  part,
  ScriptedServer,
  simple,
  success,
  u16,
  u32,
  u64,
  type Asked,
  type Script,
} from './scripted-server.js';

const request = (device: NbdDevice): Record<string, () => Promise<unknown>> => ({
  read: () => device.read(4096, new Uint8Array(1024)),
  write: () => device.write(4096, new Uint8Array(1024)),
  allocation: () => device.allocation(4096, 1024),
});

const data = (offset: number, lengthBytes: number): Buffer =>
  Buffer.concat([u64(BigInt(offset)), Buffer.alloc(lengthBytes, 0xbb)]);

/** What a reply is to, what it is, and what the client says of it. */
const replies: [name: string, to: string, reply: (asked: Asked) => Buffer, says: RegExp][] = [
  ['no magic number', 'write', () => Buffer.alloc(16, 1), /where a reply begins/],
  ['a cookie of nobody', 'write', (to) => chunk({ ...to, cookie: to.cookie + 9n }, 0), /not sent/],
  ['a cookie of 64 bits', 'write', (to) => chunk({ ...to, cookie: to.cookie + 2n ** 32n }, 0), /not sent/],
  [
    'a simple reply to a read',
    'read',
    (to) => Buffer.concat([simple(to), Buffer.alloc(1024)]),
    /simple reply/,
  ],
  ['a simple refusal of a read', 'read', (to) => simple(to, 5), /simple reply/],
  ['data in reply to a write', 'write', (to) => chunk(to, 1, data(4096, 1024)), /reads none/],
  ['data before the range', 'read', (to) => chunk(to, 1, data(4095, 1024)), /outside/],
  ['data after the range', 'read', (to) => chunk(to, 1, data(4097, 1024)), /outside/],
  ['data far beyond 2^53', 'read', (to) => chunk(to, 1, u64(2n ** 64n - 1n), Buffer.alloc(1024)), /outside/],
  ['more data than was asked for', 'read', (to) => chunk(to, 1, data(4096, 1025)), /outside/],
  ['4 GiB of data', 'read', (to) => chunkOf(to, 1, 1, data(4096, 0), 2 ** 32 - 1), /outside/],
  ['a data chunk of no data', 'read', (to) => chunk(to, 1, data(4096, 0)), /type 1 with 8 bytes/],
  ['a data chunk without an offset', 'read', (to) => chunk(to, 1, u32(0)), /type 1 with 4 bytes/],
  ['too little data', 'read', (to) => chunk(to, 1, data(4096, 1023)), /before all of its data/],
  ['an end without data', 'read', (to) => chunk(to, 0), /before all of its data/],
  [
    'the first half twice',
    'read',
    (to) => Buffer.concat([part(to, 1, data(4096, 512)), chunk(to, 1, data(4096, 512))]),
    /the same bytes twice/,
  ],
  [
    'halves that overlap, the later first',
    'read',
    (to) => Buffer.concat([part(to, 1, data(4608, 512)), chunk(to, 1, data(4097, 512))]),
    /the same bytes twice/,
  ],
  [
    'a hole over data',
    'read',
    (to) => Buffer.concat([part(to, 1, data(4096, 1024)), chunk(to, 2, u64(4096n), u32(8))]),
    /outside|twice/,
  ],
  ['a hole of no bytes', 'read', (to) => chunk(to, 2, u64(4096n), u32(0)), /hole of no bytes/],
  ['a hole past the range', 'read', (to) => chunk(to, 2, u64(4096n), u32(1025)), /outside/],
  ['a hole of the wrong length', 'read', (to) => chunk(to, 2, u64(4096n)), /type 2 with 8 bytes/],
  ['an end with a payload', 'write', (to) => chunk(to, 0, u32(1)), /type 0 with 4 bytes/],
  ['an end that is not the last', 'write', (to) => part(to, 0), /type 0/],
  ['a chunk of an unknown type', 'read', (to) => chunk(to, 99, u32(1)), /type 99/],
  ['an error that is none', 'write', (to) => chunk(to, 2 ** 15 + 1, u32(0), u16(0)), /without an error/],
  ['an error chunk too short', 'write', (to) => chunk(to, 2 ** 15 + 1, u32(5)), /with 4 bytes/],
  ['an error at an offset too short', 'read', (to) => chunk(to, 2 ** 15 + 2, u32(5), u16(0)), /with 6 bytes/],
  ['an error text too long for it', 'write', (to) => chunk(to, 2 ** 15 + 1, u32(5), u16(9)), /does not fit/],
  [
    'an error text that reaches into the offset',
    'read',
    (to) => chunk(to, 2 ** 15 + 2, u32(5), u16(1), u64(4096n)),
    /does not fit/,
  ],
  [
    'an error of 4 GiB',
    'write',
    (to) => chunkOf(to, 2 ** 15 + 1, 1, u32(5), 2 ** 32 - 1),
    /4294967295 bytes/,
  ],
  ['an unknown error of 1 GiB', 'write', (to) => chunkOf(to, 65_535, 1, u32(5), 2 ** 30), /1073741824 bytes/],
  ['a status of a write', 'write', (to) => chunk(to, 5, u32(CONTEXT), u32(1), u32(0)), /nobody asked for/],
  ['a status of another context', 'allocation', (to) => chunk(to, 5, u32(8), u32(1), u32(0)), /context 8/],
  [
    'a status of no bytes',
    'allocation',
    (to) => chunk(to, 5, u32(CONTEXT), u32(0), u32(0)),
    /status of no bytes/,
  ],
  ['a status without extents', 'allocation', (to) => chunk(to, 5, u32(CONTEXT)), /type 5 with 4 bytes/],
  ['half an extent', 'allocation', (to) => chunk(to, 5, u32(CONTEXT), u32(1)), /type 5 with 8 bytes/],
  ['a status of 4 GiB', 'allocation', (to) => chunkOf(to, 5, 1, u32(CONTEXT), 2 ** 32 - 4), /type 5/],
  [
    'two statuses',
    'allocation',
    (to) => Buffer.concat([part(to, 5, u32(CONTEXT), u32(1024), u32(0)), success({ ...to, length: 1024 })]),
    /two block statuses/,
  ],
  ['no status at all', 'allocation', (to) => chunk(to, 0), /without the block status/],
];

describe('a server that answers wrongly', () => {
  test.each(replies)('%s is a violation', async (_name, to, reply, says) => {
    await using server = await ScriptedServer.start({ answer: reply });
    await using device = await NbdDevice.open(server.uri);
    const sent = request(device)[to]?.();
    await expect(sent).rejects.toMatchObject({
      code: 'PROTOCOL_ERROR',
      message: expect.stringMatching(says),
    });
    // It is hung up on; the next request finds a server that has mended its ways.
    server.script = {};
    await device.read(0, new Uint8Array(512));
    expect(server.accepted).toBe(2);
    expect(server.connections).toBe(1);
  });

  test('a structured reply that was not agreed upon is a violation', async () => {
    await using server = await ScriptedServer.start({ structured: false, answer: success });
    await using device = await NbdDevice.open(server.uri);
    await expect(device.write(0, new Uint8Array(512))).rejects.toMatchObject({ code: 'PROTOCOL_ERROR' });
  });

  test('an answer that nobody waits for ends the session, and the requests in flight with it', async () => {
    await using server = await ScriptedServer.start({ answer: () => undefined });
    await using device = await NbdDevice.open(server.uri);
    const read = device.read(0, new Uint8Array(512));
    while (server.asked.length === 0) await turns();
    server.say(simple({ cookie: 99n } as Asked));
    await expect(read).rejects.toMatchObject({ code: 'PROTOCOL_ERROR' });
    server.script = {};
  });

  test('an unknown kind of error fails its request and no other', async () => {
    const answer = (to: Asked): Buffer =>
      to.offset === 0 ? chunk(to, 2 ** 15 + 77, u32(28), u16(0), Buffer.alloc(50)) : success(to);
    await using server = await ScriptedServer.start({ answer });
    await using device = await NbdDevice.open(server.uri);
    await expect(device.write(0, new Uint8Array(512))).rejects.toMatchObject({ code: 'DEVICE_FULL' });
    await device.write(512, new Uint8Array(512));
    expect(server.accepted).toBe(1);
  });

  test('what a server says in words is told without its control characters', async () => {
    const words = Buffer.from('no\u001b[31m more\nroom');
    const answer = (to: Asked): Buffer => chunk(to, 2 ** 15 + 1, u32(28), u16(words.length), words);
    await using server = await ScriptedServer.start({ answer });
    await using device = await NbdDevice.open(server.uri);
    await expect(device.write(0, new Uint8Array(512))).rejects.toMatchObject({
      code: 'DEVICE_FULL',
      message: expect.stringMatching(/ENOSPC \(no \[31m more room\)$/),
    });
  });
});

test('pieces of a reply in any order, holes among them, cut up into single bytes, make up what was asked for', async () => {
  const bytes = randomBytes(1024, 1);
  const piece = (from: number, to: number): Buffer =>
    Buffer.concat([u64(BigInt(4096 + from)), bytes.subarray(from, to)]);
  bytes.fill(0, 300, 700);
  const answer = (to: Asked, server: ScriptedServer): undefined => {
    const reply = Buffer.concat([
      part(to, 1, piece(700, 1000)),
      part(to, 2, u64(4096n + 300n), u32(400)),
      part(to, 1, piece(0, 1)),
      part(to, 1, piece(1000, 1024)),
      part(to, 1, piece(1, 300)),
      chunk(to, 0),
    ]);
    for (const byte of reply) server.say(Buffer.from([byte]));
  };
  await using server = await ScriptedServer.start({ answer });
  await using device = await NbdDevice.open(server.uri);
  const into = new Uint8Array(1024).fill(0xee);
  await device.read(4096, into);
  expect(differenceAt(into, bytes)).toBeUndefined();
  server.script = {};
});

const exportInfo = (size: bigint, flags = everything): Buffer =>
  Buffer.concat([u16(InfoType.Export), u64(size), u16(flags)]);

/** Answers GO with these pieces of information. */
const informing = (...infos: Buffer[]): Script => ({
  answerOption: (option) =>
    option === Option.Go
      ? Buffer.concat([
          ...infos.map((info) => optionReply(option, OptionReply.Info, info)),
          optionReply(option, OptionReply.Ack),
        ])
      : undefined,
});

const greeting = (first: bigint, second: bigint): Script => ({
  greeting: Buffer.concat([u64(first), u64(second), u16(3)]),
});

const handshakes: [name: string, script: Script, code: string, says: RegExp][] = [
  [
    'no NBD at all',
    { greeting: Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n') },
    'PROTOCOL_ERROR',
    /no greeting/,
  ],
  ['the old style', greeting(SERVER_MAGIC, 0x420281861253n), 'PROTOCOL_ERROR', /old style/],
  [
    'a reply without a magic number',
    { answerOption: () => Buffer.alloc(20) },
    'PROTOCOL_ERROR',
    /without its magic/,
  ],
  [
    'a reply to another option',
    { answerOption: () => optionReply(99, OptionReply.Ack) },
    'PROTOCOL_ERROR',
    /reply to option 99/,
  ],
  [
    'a reply of 4 GiB',
    {
      answerOption: (option) =>
        Buffer.concat([optionReply(option, OptionReply.Info).subarray(0, 16), u32(2 ** 32 - 1)]),
    },
    'PROTOCOL_ERROR',
    /4294967295 bytes/,
  ],
  [
    'replies without end',
    informing(...Array.from({ length: 1000 }, () => Buffer.concat([u16(9), u16(9)]))),
    'PROTOCOL_ERROR',
    /more than 64 replies/,
  ],
  ['consent without a size', informing(), 'PROTOCOL_ERROR', /without the size/],
  [
    'a size of the wrong length',
    informing(Buffer.concat([exportInfo(0n), u16(0)])),
    'PROTOCOL_ERROR',
    /14 bytes/,
  ],
  ['a size of 2^53', informing(exportInfo(2n ** 53n)), 'DEVICE_UNSUPPORTED', /9007199254740992 bytes/],
  ['flags without the first bit', informing(exportInfo(512n, everything - 1)), 'PROTOCOL_ERROR', /flags/],
  ['a minimum of 0', { blockSizes: [0, 4096, 2 ** 20] }, 'PROTOCOL_ERROR', /minimum block size of 0/],
  ['a minimum of 3', { blockSizes: [3, 4096, 2 ** 20] }, 'PROTOCOL_ERROR', /minimum block size of 3/],
  ['a minimum of 128 KiB', { blockSizes: [2 ** 17, 2 ** 17, 2 ** 20] }, 'PROTOCOL_ERROR', /minimum/],
  ['a preference of 0', { blockSizes: [1, 0, 2 ** 20] }, 'PROTOCOL_ERROR', /preferred/],
  ['a preference below the minimum', { blockSizes: [4096, 512, 2 ** 20] }, 'PROTOCOL_ERROR', /preferred/],
  ['a maximum below the minimum', { blockSizes: [4096, 4096, 512] }, 'PROTOCOL_ERROR', /maximum/],
];

describe('a server that shakes hands wrongly', () => {
  test.each(handshakes)('%s is refused', async (_name, script, code, says) => {
    await using server = await ScriptedServer.start(script);
    await expect(NbdDevice.open(server.uri)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(says),
      device: server.uri,
    });
    while (server.connections > 0) await turns();
  });

  test('one that says nothing is given up after 10 s', async () => {
    const clock = new ManualClock();
    await using server = await ScriptedServer.start({ greeting: Buffer.alloc(5) });
    const opening = NbdDevice.open(server.uri, { clock });
    while (server.accepted === 0) await turns();
    await clock.advance(9999);
    expect(await isSettled(opening)).toBe(false);
    await clock.advance(1);
    await expect(opening).rejects.toMatchObject({
      code: 'CONNECTION_FAILED',
      message: expect.stringMatching(/within 10000 ms/),
    });
    expect(clock.timers).toBe(0);
  });

  test('bytes between the consent to TLS and TLS are not taken for encrypted ones', async () => {
    const script: Script = {
      answerOption: (option) =>
        Buffer.concat([
          optionReply(option, OptionReply.Ack),
          optionReply(Option.StructuredReply, OptionReply.Ack),
        ]),
    };
    await using server = await ScriptedServer.start(script);
    await expect(NbdDevice.open(server.uri.replace('nbd+', 'nbds+'))).rejects.toMatchObject({
      code: 'PROTOCOL_ERROR',
      message: expect.stringMatching(/between its consent to TLS/),
    });
  });

  test('one that refuses TLS is not talked to in the clear', async () => {
    const options: number[] = [];
    const script: Script = {
      answerOption: (option) => {
        options.push(option);
        return undefined;
      },
    };
    await using server = await ScriptedServer.start(script);
    await expect(NbdDevice.open(server.uri.replace('nbd+', 'nbds+'))).rejects.toMatchObject({
      code: 'CONNECTION_FAILED',
      message: expect.stringMatching(/refuses TLS/),
    });
    expect(options).toEqual([Option.StartTls]);
  });

  test('a server of today that wants no options is asked by name', async () => {
    await using server = await ScriptedServer.start({
      greeting: Buffer.concat([u64(SERVER_MAGIC), u64(OPTION_MAGIC), u16(2)]),
      answer: (to) => (to.length > 0 ? Buffer.concat([simple(to), Buffer.alloc(to.length, 9)]) : simple(to)),
    });
    await using device = await NbdDevice.open(server.uri);
    const into = new Uint8Array(600);
    await device.read(100, into);
    expect(differenceAt(into, new Uint8Array(600).fill(9))).toBeUndefined();
    expect(await device.allocation(0, 1000)).toEqual([{ offsetBytes: 0, lengthBytes: 1000, kind: 'data' }]);
  });
});
