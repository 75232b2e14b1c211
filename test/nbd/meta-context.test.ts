import { describe, expect, test } from 'vitest';
import { MemoryDevice } from '#src/devices/memory';
import type { MetaContext, NbdExport } from '#src/nbd/server/exports';
import { ChunkType, Command, Errno, Length, Option, OptionReply } from '#src/nbd/protocol';
import {
  contextIds,
  encodeInfo,
  encodeQueries,
  encodeString,
  serve,
  uint32,
  type Haggler,
} from './haggler.js';
import { encodeRequest } from './wire.js';

const device = new MemoryDevice(4096);
const context = (name: string): MetaContext => ({
  name,
  describe: (_, lengthBytes) => Promise.resolve([{ lengthBytes, flags: 1 }]),
});
const disk: NbdExport = {
  name: 'disk',
  device,
  contexts: ['qemu:dirty-bitmap:one', 'qemu:dirty-bitmap:two', 'x-test:it'].map(context),
};
const all = ['base:allocation', 'qemu:dirty-bitmap:one', 'qemu:dirty-bitmap:two', 'x-test:it'];
/** The same bytes under another name. */
const alias: NbdExport = { ...disk, name: 'alias' };
const plain: NbdExport = { name: 'plain', device: new MemoryDevice(512) };

const exports = [disk, alias, plain];

async function names(client: Haggler, option: number, ...queries: string[]): Promise<string[]> {
  return Object.keys(contextIds(await client.ask(option, encodeQueries('disk', ...queries))));
}

describe('LIST_META_CONTEXT', () => {
  test.each<[string[], string[]]>([
    [[], all],
    [['base:'], ['base:allocation']],
    [['base:allocation'], ['base:allocation']],
    [['base:allocation', 'base:', 'base:allocation'], ['base:allocation']],
    [['qemu:'], ['qemu:dirty-bitmap:one', 'qemu:dirty-bitmap:two']],
    [['qemu:dirty-bitmap:'], ['qemu:dirty-bitmap:one', 'qemu:dirty-bitmap:two']],
    [['qemu:dirty-bitmap:two'], ['qemu:dirty-bitmap:two']],
    [['qemu:dirty-bitmap:t'], []],
    [['base:alloc', 'base:nothing', 'base:allocation:'], []],
    [['x-other:it', 'b:', 'qem:'], []],
    [['x-other:it', 'x-test:it'], ['x-test:it']],
  ])('with %j finds %j', async (queries, expected) => {
    await using served = await serve(exports);
    using client = await served.client();
    await client.ask(Option.StructuredReply);
    expect(await names(client, Option.ListMetaContext, ...queries)).toEqual(expected);
  });

  test('gives no numbers', async () => {
    await using served = await serve(exports);
    using client = await served.client();
    const answers = await client.ask(Option.ListMetaContext, encodeQueries('disk'));
    expect(Object.values(contextIds(answers))).toEqual([0, 0, 0, 0]);
  });

  test('selects nothing', async () => {
    await using served = await serve(exports);
    using client = await served.client();
    await client.ask(Option.StructuredReply);
    await client.ask(Option.ListMetaContext, encodeQueries('disk', 'base:allocation'));
    expect(await statusIds(client, 'disk')).toBe(Errno.EINVAL);
  });
});

describe('SET_META_CONTEXT', () => {
  test.each<[string[], string[]]>([
    [[], []],
    [['base:'], []],
    [['base:allocation'], ['base:allocation']],
    [['base:allocation', 'base:allocation'], ['base:allocation']],
    [['qemu:', 'qemu:dirty-bitmap:', 'qemu:dirty-bitmap:two'], ['qemu:dirty-bitmap:two']],
    [['x-other:it', 'base:nothing', 'x-test:it'], ['x-test:it']],
    [all, all],
  ])('with %j selects %j', async (queries, expected) => {
    await using served = await serve(exports);
    using client = await served.client();
    await client.ask(Option.StructuredReply);
    const selected = contextIds(await client.ask(Option.SetMetaContext, encodeQueries('disk', ...queries)));
    expect(Object.keys(selected)).toEqual(expected);
    expect(new Set(Object.values(selected)).size).toBe(expected.length);
    const ids = expected.length === 0 ? Errno.EINVAL : Object.values(selected);
    expect(await statusIds(client, 'disk')).toEqual(ids);
  });

  test('needs structured replies', async () => {
    await using served = await serve(exports);
    using client = await served.client();
    const data = encodeQueries('disk', 'base:allocation');
    expect(await client.verdict(Option.SetMetaContext, data)).toBe(OptionReply.ErrInvalid);
    await client.ask(Option.StructuredReply);
    expect(await client.verdict(Option.SetMetaContext, data)).toBe(OptionReply.Ack);
  });

  test.each<[string, Buffer]>([
    ['nothing', encodeQueries('disk')],
    ['what is not known', encodeQueries('disk', 'base:nothing')],
    ['an unknown export', encodeQueries('nobody', 'base:allocation')],
    ['a broken query', encodeQueries('disk', 'allocation')],
    ['broken data', Buffer.alloc(3)],
    ['too much data', Buffer.alloc(100_000)],
    ['another export', encodeQueries('plain', 'base:allocation')],
    ['the same device under another name', encodeQueries('alias', 'base:allocation')],
  ])('replaces what was selected by %s', async (_, data) => {
    await using served = await serve(exports);
    using client = await served.client();
    await client.ask(Option.StructuredReply);
    await client.ask(Option.SetMetaContext, encodeQueries('disk', 'base:allocation'));
    await client.ask(Option.SetMetaContext, data);
    expect(await statusIds(client, 'disk')).toBe(Errno.EINVAL);
  });

  test('is for the export that is opened, by whatever way', async () => {
    await using served = await serve([disk]);
    using client = await served.client();
    await client.ask(Option.StructuredReply);
    await client.ask(Option.SetMetaContext, encodeQueries('', 'x-test:it'));
    client.send(Option.ExportName, Buffer.from('disk'));
    await client.read(10);
    expect(await statusOf(client)).toHaveLength(1);
  });

  test('is void when the export was replaced by another of its name', async () => {
    let current = disk;
    await using served = await serve({ list: () => [current], find: () => current });
    using client = await served.client();
    await client.ask(Option.StructuredReply);
    await client.ask(Option.SetMetaContext, encodeQueries('disk', 'base:allocation'));
    current = { ...disk, device: new MemoryDevice(4096) };
    expect(await statusIds(client, 'disk')).toBe(Errno.EINVAL);
  });
});

describe.each([
  ['LIST_META_CONTEXT', Option.ListMetaContext],
  ['SET_META_CONTEXT', Option.SetMetaContext],
])('%s', (_, option) => {
  test.each<[string, Buffer, number]>([
    ['no data', Buffer.alloc(0), OptionReply.ErrInvalid],
    ['no number of queries', encodeString('disk'), OptionReply.ErrInvalid],
    [
      'a name that ends after the option',
      Buffer.concat([uint32(99), Buffer.from('disk')]),
      OptionReply.ErrInvalid,
    ],
    [
      'four billion queries that are not there',
      Buffer.concat([encodeString('disk'), uint32(2 ** 32 - 1)]),
      OptionReply.ErrInvalid,
    ],
    [
      'a query that ends after the option',
      Buffer.concat([encodeString('disk'), uint32(1), uint32(6), Buffer.from('base:')]),
      OptionReply.ErrInvalid,
    ],
    [
      'more than it says',
      Buffer.concat([encodeQueries('disk', 'base:'), Buffer.alloc(1)]),
      OptionReply.ErrInvalid,
    ],
    ['a query without a namespace', encodeQueries('disk', 'allocation'), OptionReply.ErrInvalid],
    ['an empty namespace', encodeQueries('disk', ':allocation'), OptionReply.ErrInvalid],
    ['an empty query', encodeQueries('disk', ''), OptionReply.ErrInvalid],
    ['a query of 4097 bytes', encodeQueries('disk', `x:${'y'.repeat(4095)}`), OptionReply.ErrInvalid],
    [
      'a query that is good and one that is not',
      encodeQueries('disk', 'base:', 'no'),
      OptionReply.ErrInvalid,
    ],
    ['an unknown export', encodeQueries('nobody', 'base:'), OptionReply.ErrUnknown],
  ])('with %s is refused, and the handshake goes on', async (_, data, verdict) => {
    await using served = await serve(exports);
    using client = await served.client();
    await client.ask(Option.StructuredReply);
    const answers = await client.ask(option, data);
    expect(answers.map(({ type }) => type)).toEqual([verdict]);
    expect(await client.verdict(option, encodeQueries('disk', 'base:'))).toBe(OptionReply.Ack);
  });
});

/** Opens an export, asks for the status of its blocks, and tells for which contexts it was given, or why not. */
async function statusIds(client: Haggler, name: string): Promise<number[] | number> {
  await client.ask(Option.Go, encodeInfo(name));
  return await statusOf(client);
}

async function statusOf(client: Haggler): Promise<number[] | number> {
  client.stream.write(encodeRequest({ command: Command.BlockStatus, length: 512 }));
  const ids: number[] = [];
  for (;;) {
    const header = await client.read(Length.ChunkHeader);
    const payload = await client.read(header.readUInt32BE(16));
    if (header.readUInt16BE(6) === ChunkType.Error) return payload.readUInt32BE();
    ids.push(payload.readUInt32BE());
    if (header.readUInt16BE(4) === 1) return ids;
  }
}
