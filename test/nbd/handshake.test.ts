import { describe, expect, test } from 'vitest';
import type { Capabilities } from '#src/devices/block-device';
import { MemoryDevice } from '#src/devices/memory';
import {
  Command,
  InfoType,
  Option,
  OptionReply,
  SIMPLE_REPLY_MAGIC,
  TransmissionFlag,
} from '#src/nbd/protocol';
import { KiB, MiB } from '#src/runtime/sizes';
import {
  encodeInfo,
  encodeOption,
  encodeString,
  exportInfo,
  Haggler,
  serve,
  uint16,
  uint32,
} from './haggler.js';
import { encodeRequest } from './wire.js';

const device = new MemoryDevice(1_000_003);
const disk = { name: 'disk', description: 'a disk', device };
const other = { name: 'other', device: new MemoryDevice(4096) };

/** The same device, saying that it can do something else. */
function deviceThat(capabilities: Partial<Capabilities>): MemoryDevice {
  const base = new MemoryDevice(4096);
  return Object.assign(base, { capabilities: { ...base.capabilities, ...capabilities } });
}

describe('greeting', () => {
  test('names the protocol and says fixed newstyle, no zeroes', async () => {
    await using served = await serve([disk]);
    using client = await Haggler.connect(served.address);
    expect((await client.read(18)).toString('latin1')).toBe('NBDMAGICIHAVEOPT\x00\x03');
  });

  test.each([4, 7, 2 ** 31, 2 ** 31 + 3])('client flags 0x%x drop the connection', async (flags) => {
    await using served = await serve([disk]);
    using client = await served.client(flags);
    client.send(Option.List);
    expect(await client.rest()).toHaveLength(0);
  });

  test('what does not begin like an option drops the connection', async () => {
    await using served = await serve([disk]);
    using client = await served.client();
    const broken = encodeOption(Option.List);
    broken[7] = 0;
    client.stream.write(broken);
    expect(await client.rest()).toHaveLength(0);
  });

  test('without fixed newstyle there is no option but EXPORT_NAME', async () => {
    await using served = await serve([disk]);
    using client = await served.client(0);
    client.send(Option.List);
    expect(await client.rest()).toHaveLength(0);
    using plain = await served.client(0);
    plain.send(Option.ExportName, Buffer.from('disk'));
    expect((await plain.read(134)).readBigUInt64BE()).toBe(1_000_003n);
  });
});

describe('EXPORT_NAME', () => {
  const read = encodeRequest({ command: Command.Read, cookie: 5n, length: 3 });

  test.each([
    [1, 124],
    [3, 0],
  ])('with client flags %d is answered with size, flags and %d zeros', async (flags, zeros) => {
    await using served = await serve([disk]);
    using client = await served.client(flags);
    // The first request is on its way with it.
    client.stream.write(Buffer.concat([encodeOption(Option.ExportName, Buffer.from('disk')), read]));
    expect((await client.read(8)).readBigUInt64BE()).toBe(1_000_003n);
    expect((await client.read(2)).readUInt16BE() & TransmissionFlag.HasFlags).toBe(1);
    expect(await client.read(zeros)).toEqual(Buffer.alloc(zeros));
    const reply = await client.read(19);
    expect(reply.readUInt32BE()).toBe(SIMPLE_REPLY_MAGIC);
    expect(reply.readBigUInt64BE(8)).toBe(5n);
  });

  test.each([
    ['unknown', 'nobody'],
    ['too long', 'x'.repeat(4097)],
    ['much too long', 'x'.repeat(100_000)],
    ['not a string', 'di\0sk'],
  ])('with a name that is %s closes the connection', async (_, name) => {
    await using served = await serve([disk]);
    using client = await served.client();
    client.send(Option.ExportName, Buffer.from(name));
    expect(await client.rest()).toHaveLength(0);
  });
});

describe('the empty name', () => {
  const unnamed = { name: '', device: new MemoryDevice(77) };

  test('is the export of that name', async () => {
    await using served = await serve([disk, unnamed]);
    using client = await served.client();
    expect(exportInfo(await client.ask(Option.Info, encodeInfo(''))).size).toBe(77n);
  });

  test('is the only export, which tells its name', async () => {
    await using served = await serve([disk]);
    using client = await served.client();
    const answers = await client.ask(Option.Go, encodeInfo('', InfoType.Name));
    expect(exportInfo(answers).size).toBe(1_000_003n);
    expect(infos(answers)[InfoType.Name]?.toString()).toBe('disk');
  });

  test('is nothing where there are several', async () => {
    await using served = await serve([disk, other]);
    using client = await served.client();
    expect(await client.verdict(Option.Go, encodeInfo(''))).toBe(OptionReply.ErrUnknown);
  });
});

test.each([0, 10, 100_000])(
  'ABORT with %d bytes is acknowledged, and the connection closed',
  async (length) => {
    await using served = await serve([disk]);
    using client = await served.client();
    expect(await client.verdict(Option.Abort, Buffer.alloc(length))).toBe(OptionReply.Ack);
    expect(await client.rest()).toHaveLength(0);
    client.stream.end();
    await expect.poll(() => served.server.connections).toBe(0);
  },
);

test('ABORT of a client that does not wait for the answer is no trouble', async () => {
  await using served = await serve([disk]);
  using client = await served.client();
  client.stream.end(encodeOption(Option.Abort));
  client.socket.destroySoon();
  await expect.poll(() => served.server.connections).toBe(0);
});

describe('LIST', () => {
  test('names all exports in their order', async () => {
    await using served = await serve([other, disk]);
    using client = await served.client();
    const answers = await client.ask(Option.List);
    expect(answers.map(({ type }) => type)).toEqual([
      OptionReply.Server,
      OptionReply.Server,
      OptionReply.Ack,
    ]);
    expect(answers[0]?.data).toEqual(encodeString('other'));
    expect(answers[1]?.data).toEqual(Buffer.concat([encodeString('disk'), Buffer.from('a disk')]));
  });

  test('asks anew each time', async () => {
    const exports = [disk];
    await using served = await serve({ list: () => exports, find: () => undefined });
    using client = await served.client();
    expect(await client.ask(Option.List)).toHaveLength(2);
    exports.pop();
    expect(await client.ask(Option.List)).toHaveLength(1);
  });

  test('with data is refused', async () => {
    await using served = await serve([disk]);
    using client = await served.client();
    expect(await client.verdict(Option.List, Buffer.alloc(1))).toBe(OptionReply.ErrInvalid);
    expect(await client.verdict(Option.List)).toBe(OptionReply.Ack);
  });
});

/** The information in an answer, by its type. */
function infos(answers: readonly { type: number; data: Buffer }[]): Record<number, Buffer> {
  const found = answers.filter(({ type }) => type === OptionReply.Info);
  return Object.fromEntries(found.map(({ data }) => [data.readUInt16BE(), data.subarray(2)] as const));
}

describe.each([
  ['INFO', Option.Info],
  ['GO', Option.Go],
])('%s', (_, option) => {
  test('tells size and block sizes unasked', async () => {
    await using served = await serve([disk]);
    using client = await served.client();
    const answers = await client.ask(option, encodeInfo('disk'));
    expect(exportInfo(answers).size).toBe(1_000_003n);
    expect(Object.keys(infos(answers))).toEqual(['0', '3']);
    expect(infos(answers)[InfoType.BlockSize]?.toString('hex')).toBe('000000010000020002000000');
  });

  test('tells name and description when asked, and passes over what it does not know', async () => {
    await using served = await serve([disk]);
    using client = await served.client();
    const wanted = [InfoType.Description, 99, InfoType.Name, InfoType.BlockSize];
    const found = infos(await client.ask(option, encodeInfo('disk', ...wanted)));
    expect(Object.keys(found)).toEqual(['0', '1', '2', '3']);
    expect(found[InfoType.Name]?.toString()).toBe('disk');
    expect(found[InfoType.Description]?.toString()).toBe('a disk');
  });

  test('tells no description where there is none', async () => {
    await using served = await serve([other]);
    using client = await served.client();
    const found = infos(await client.ask(option, encodeInfo('other', InfoType.Description)));
    expect(Object.keys(found)).toEqual(['0', '3']);
  });

  test.each([
    [1, 512],
    [4096, 4096],
    [4097, 8192],
    [3 * MiB, 4 * MiB],
    [100 * MiB, 32 * MiB],
  ])('of a device that prefers %d bytes says %d', async (preferredBlockBytes, expected) => {
    await using served = await serve([{ name: 'd', device: deviceThat({ preferredBlockBytes }) }]);
    using client = await served.client();
    const found = infos(await client.ask(option, encodeInfo('d')));
    expect(found[InfoType.BlockSize]?.readUInt32BE(4)).toBe(expected);
  });

  test('of an unknown export tells nothing, and the handshake goes on', async () => {
    await using served = await serve([disk]);
    using client = await served.client();
    const answers = await client.ask(option, encodeInfo('nobody'));
    expect(answers.map(({ type }) => type)).toEqual([OptionReply.ErrUnknown]);
    expect(await client.verdict(option, encodeInfo('disk'))).toBe(OptionReply.Ack);
  });

  test.each<[string, Buffer]>([
    ['no data', Buffer.alloc(0)],
    ['half a length', Buffer.alloc(3)],
    ['a name that ends after the option', Buffer.concat([uint32(5), Buffer.from('disk'), uint16(0)])],
    ['a name of four gigabytes', Buffer.concat([uint32(2 ** 32 - 1), Buffer.from('disk'), uint16(0)])],
    ['no number of requests', encodeString('disk')],
    ['fewer requests than it says', Buffer.concat([encodeString('disk'), uint16(2), uint16(0)])],
    ['65535 requests that are not there', Buffer.concat([encodeString('disk'), uint16(65_535)])],
    ['more requests than it says', Buffer.concat([encodeString('disk'), uint16(0), uint16(0)])],
    ['a name of 4097 bytes', encodeInfo('x'.repeat(4097))],
    ['a NUL in its name', encodeInfo('disk\0')],
    ['a name that is not UTF-8', Buffer.concat([uint32(1), Buffer.from([0xff]), uint16(0)])],
  ])('with %s is refused, and the handshake goes on', async (_, data) => {
    await using served = await serve([disk]);
    using client = await served.client();
    expect(await client.verdict(option, data)).toBe(OptionReply.ErrInvalid);
    expect(await client.verdict(option, encodeInfo('disk'))).toBe(OptionReply.Ack);
  });
});

test('INFO and then GO say the same, and GO is followed by nothing', async () => {
  await using served = await serve([disk]);
  using client = await served.client(1);
  const wanted = encodeInfo('disk', InfoType.Name, InfoType.Description, InfoType.BlockSize);
  const info = await client.ask(Option.Info, wanted);
  client.stream.write(
    Buffer.concat([encodeOption(Option.Go, wanted), encodeRequest({ command: Command.Flush, cookie: 9n })]),
  );
  const go = await client.answers(Option.Go);
  expect(go.map(({ type, data }) => ({ type, data }))).toEqual(
    info.map(({ type, data }) => ({ type, data })),
  );
  const reply = await client.read(16);
  expect(reply.readUInt32BE()).toBe(SIMPLE_REPLY_MAGIC);
  expect(reply.readBigUInt64BE(8)).toBe(9n);
});

test('sizes beyond 32 bits are told as they are', async () => {
  const device = Object.assign(new MemoryDevice(0), { sizeBytes: Number.MAX_SAFE_INTEGER });
  await using served = await serve([{ name: 'huge', device }]);
  using client = await served.client();
  expect(exportInfo(await client.ask(Option.Info, encodeInfo('huge'))).size).toBe(2n ** 53n - 1n);
});

test('names of 4096 bytes and of any letters are names', async () => {
  const names = ['é'.repeat(2048), 'a/b c%', '\ufeffbom', '🜚'];
  await using served = await serve(names.map((name) => ({ name, device })));
  for (const name of names) {
    using client = await served.client();
    expect(await client.verdict(Option.Go, encodeInfo(name))).toBe(OptionReply.Ack);
  }
});

describe('STRUCTURED_REPLY', () => {
  test('is acknowledged, and DF is offered after it', async () => {
    await using served = await serve([disk]);
    using client = await served.client();
    const before = exportInfo(await client.ask(Option.Info, encodeInfo('disk'))).flags;
    expect(await client.verdict(Option.StructuredReply)).toBe(OptionReply.Ack);
    const after = exportInfo(await client.ask(Option.Info, encodeInfo('disk'))).flags;
    expect(before & TransmissionFlag.SendDf).toBe(0);
    expect(after).toBe(before | TransmissionFlag.SendDf);
  });

  test('with data is refused, and not agreed upon', async () => {
    await using served = await serve([disk]);
    using client = await served.client();
    expect(await client.verdict(Option.StructuredReply, Buffer.alloc(4))).toBe(OptionReply.ErrInvalid);
    const { flags } = exportInfo(await client.ask(Option.Info, encodeInfo('disk')));
    expect(flags & TransmissionFlag.SendDf).toBe(0);
  });
});

describe('what is not known or too much', () => {
  // Data that would be taken for an option by whoever does not pass over it.
  const decoy = encodeOption(Option.Abort);

  test.each([0, 4, Option.ExtendedHeaders, 12, 2 ** 32 - 1])(
    'option %d with data is not supported, and the next one is heard',
    async (option) => {
      await using served = await serve([disk]);
      using client = await served.client();
      expect(await client.verdict(option, decoy)).toBe(OptionReply.ErrUnsupported);
      expect(await client.verdict(option, Buffer.alloc(MiB))).toBe(OptionReply.ErrUnsupported);
      expect(await client.verdict(Option.List)).toBe(OptionReply.Ack);
    },
  );

  test.each([64 * KiB + 1, 5 * MiB])(
    'an option with %d bytes is too big, and the next one is heard',
    async (length) => {
      await using served = await serve([disk]);
      using client = await served.client();
      expect(await client.verdict(Option.Info, Buffer.alloc(length))).toBe(OptionReply.ErrTooBig);
      expect(await client.verdict(Option.List)).toBe(OptionReply.Ack);
    },
  );

  test.each([32 * MiB + 1, 2 ** 32 - 1])(
    'an option said to have %d bytes drops the connection',
    async (length) => {
      await using served = await serve([disk]);
      using client = await served.client();
      const header = encodeOption(Option.List);
      header.writeUInt32BE(length, 12);
      client.stream.write(header);
      expect(await client.rest()).toHaveLength(0);
    },
  );
});

test('bytes that come one at a time make the same handshake', async () => {
  await using served = await serve([disk]);
  const options: [number, Buffer?][] = [
    [Option.List],
    [99, Buffer.alloc(50)],
    [Option.StructuredReply],
    [Option.Info, encodeInfo('nobody')],
    [Option.Info, encodeInfo('disk', InfoType.Name)],
    [Option.Go, encodeInfo('disk', InfoType.Description)],
  ];
  using whole = await served.client();
  using slow = await served.client();
  slow.socket.setNoDelay(true);
  for (const [option, data] of options) {
    for (const byte of encodeOption(option, data)) {
      slow.stream.write(Buffer.of(byte));
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(await slow.answers(option)).toEqual(await whole.ask(option, data));
  }
});

describe('transmission flags', () => {
  const { ReadOnly, SendTrim, SendWriteZeroes, SendFastZero, CanMultiConn, SendFua, SendFlush, SendCache } =
    TransmissionFlag;

  async function flagsOf(capabilities: Partial<Capabilities>): Promise<number> {
    await using served = await serve([{ name: 'd', device: deviceThat(capabilities) }]);
    using client = await served.client();
    return exportInfo(await client.ask(Option.Info, encodeInfo('d'))).flags;
  }

  test.each<[Partial<Capabilities>, number, number]>([
    [{ readOnly: true }, ReadOnly, SendTrim | SendWriteZeroes | SendFastZero],
    [{ readOnly: false }, SendWriteZeroes, ReadOnly],
    [{ trim: true }, SendTrim, 0],
    [{ trim: false }, 0, SendTrim],
    [{ multiConnection: true }, CanMultiConn, 0],
    [{ multiConnection: false }, 0, CanMultiConn],
    // They work everywhere, and cost what they cost.
    [{ fua: false, fastZero: false }, SendFua | SendFlush | SendCache | SendFastZero, 0],
  ])('of %o', async (capabilities, set, clear) => {
    const flags = await flagsOf(capabilities);
    expect(flags & (set | TransmissionFlag.HasFlags)).toBe(set | TransmissionFlag.HasFlags);
    expect(flags & (clear | TransmissionFlag.Rotational | TransmissionFlag.SendResize)).toBe(0);
  });
});
