import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { connect, type TLSSocket } from 'node:tls';
import { afterAll, beforeAll, describe, expect } from 'vitest';
import { MemoryDevice } from '#src/devices/memory';
import { Command, Errno, Length, Option, OptionReply, TransmissionFlag } from '#src/nbd/protocol';
import { NbdServer } from '#src/nbd/server/server';
import type { NbdServerTls } from '#src/nbd/server/tls';
import { makeCertificates, type Certificates } from '../support/certificates.js';
import { temporaryDirectory } from '../support/directory.js';
import { ManualClock } from '../support/manual-clock.js';
import { needs } from '../support/needs.js';
import { runProcess } from '../support/process.js';
import {
  encodeInfo,
  encodeOption,
  encodeQueries,
  exportInfo,
  serve,
  tableOf,
  type Haggler,
} from './haggler.js';
import { encodeRequest } from './wire.js';

const test = needs('openssl');
const disk = { name: 'disk', device: new MemoryDevice(4096) };

const directory = temporaryDirectory();
let certificates: Certificates;
beforeAll(async () => {
  certificates = await makeCertificates(directory.path);
});
afterAll(() => directory[Symbol.asyncDispose]());

function required(): NbdServerTls {
  return { mode: 'required', certificates: certificates.server };
}

/** Upgrades the connection as a client with the certificates of a folder. */
async function upgrade(client: Haggler, folder: string): Promise<void> {
  expect(await client.verdict(Option.StartTls)).toBe(OptionReply.Ack);
  client.stream = await secured(client, folder);
}

async function secured(client: Haggler, folder: string): Promise<TLSSocket> {
  const read = (name: string): Buffer | undefined =>
    existsSync(join(folder, name)) ? readFileSync(join(folder, name)) : undefined;
  const stream = connect({
    socket: client.socket,
    servername: 'localhost',
    ca: read('ca-cert.pem'),
    cert: read('client-cert.pem'),
    key: read('client-key.pem'),
  });
  stream.on('error', () => {});
  await once(stream, 'secureConnect');
  return stream;
}

describe('where TLS is required', () => {
  test('nothing is told before it is in use', async () => {
    await using served = await serve([disk], { tls: required() });
    using client = await served.client();
    const refused: [number, Buffer?][] = [
      [Option.List],
      [Option.Info, encodeInfo('disk')],
      [Option.Go, encodeInfo('disk')],
      [Option.StructuredReply],
      [Option.ListMetaContext, encodeQueries('disk')],
      [Option.SetMetaContext, encodeQueries('disk')],
      [99, Buffer.alloc(100)],
      [Option.Info, Buffer.alloc(100_000)],
    ];
    for (const [option, data] of refused) {
      const answers = await client.ask(option, data);
      expect(answers.map(({ type }) => type)).toEqual([OptionReply.ErrTlsRequired]);
    }
    await upgrade(client, certificates.client);
    expect(await client.verdict(Option.List)).toBe(OptionReply.Ack);
  });

  test('EXPORT_NAME before it closes the connection', async () => {
    await using served = await serve([disk], { tls: required() });
    using client = await served.client();
    client.send(Option.ExportName, Buffer.from('disk'));
    expect(await client.rest()).toHaveLength(0);
  });

  test('ABORT before it is acknowledged', async () => {
    await using served = await serve([disk], { tls: required() });
    using client = await served.client();
    expect(await client.verdict(Option.Abort)).toBe(OptionReply.Ack);
  });

  test('URIs say so', async () => {
    await using served = await serve([disk], { tls: required() });
    expect(served.server.uriOf('disk')).toMatch(/^nbds\+unix:\/\/\/disk\?socket=/);
  });
});

describe('where TLS is optional', () => {
  test('a client may do without', async () => {
    await using served = await serve([disk], { tls: { ...required(), mode: 'optional' } });
    using client = await served.client();
    expect(await client.verdict(Option.Go, encodeInfo('disk'))).toBe(OptionReply.Ack);
    expect(served.server.uriOf('disk')).toMatch(/^nbd\+unix:/);
  });

  test('what was agreed upon before counts for nothing after', async () => {
    await using served = await serve([disk], { tls: { ...required(), mode: 'optional' } });
    using client = await served.client();
    await client.ask(Option.StructuredReply);
    await client.ask(Option.SetMetaContext, encodeQueries('disk', 'base:allocation'));
    await upgrade(client, certificates.client);
    const data = encodeQueries('disk', 'base:allocation');
    expect(await client.verdict(Option.SetMetaContext, data)).toBe(OptionReply.ErrInvalid);
    const { flags } = exportInfo(await client.ask(Option.Info, encodeInfo('disk')));
    expect(flags & TransmissionFlag.SendDf).toBe(0);
    await client.ask(Option.StructuredReply);
    await client.ask(Option.Go, encodeInfo('disk'));
    client.stream.write(encodeRequest({ command: Command.BlockStatus, length: 512 }));
    const reply = await client.read(Length.ChunkHeader + 4);
    expect(reply.readUInt32BE(Length.ChunkHeader)).toBe(Errno.EINVAL);
  });
});

test('a server without TLS refuses STARTTLS, and goes on', async () => {
  await using served = await serve([disk]);
  using client = await served.client();
  expect(await client.verdict(Option.StartTls)).toBe(OptionReply.ErrPolicy);
  expect(await client.verdict(Option.List)).toBe(OptionReply.Ack);
});

test('STARTTLS with data is refused', async () => {
  await using served = await serve([disk], { tls: required() });
  using client = await served.client();
  expect(await client.verdict(Option.StartTls, Buffer.alloc(1))).toBe(OptionReply.ErrInvalid);
  expect(await client.verdict(Option.List)).toBe(OptionReply.ErrTlsRequired);
});

test('a second STARTTLS is refused', async () => {
  await using served = await serve([disk], { tls: required() });
  using client = await served.client();
  await upgrade(client, certificates.client);
  expect(await client.verdict(Option.StartTls)).toBe(OptionReply.ErrInvalid);
  expect(await client.verdict(Option.List)).toBe(OptionReply.Ack);
});

test('requests and large replies go through TLS', async () => {
  const device = new MemoryDevice(1_000_000);
  await device.write(0, new Uint8Array(1_000_000).fill(7));
  await using served = await serve([{ name: 'large', device }], { tls: required() });
  using client = await served.client();
  await upgrade(client, certificates.client);
  expect(await client.verdict(Option.Go, encodeInfo('large'))).toBe(OptionReply.Ack);
  client.stream.write(encodeRequest({ command: Command.Read, length: 1_000_000 }));
  const reply = await client.read(Length.SimpleReply + 1_000_000);
  expect(reply.subarray(Length.SimpleReply).equals(Buffer.alloc(1_000_000, 7))).toBe(true);
  client.stream.write(encodeRequest({ command: Command.Disconnect }));
  expect(await client.rest()).toHaveLength(0);
  client.stream.end();
  await expect.poll(() => served.server.connections).toBe(0);
});

test('what was sent along with STARTTLS, in the clear, is not obeyed', async () => {
  await using served = await serve([disk], { tls: required() });
  using client = await served.client();
  client.stream.write(Buffer.concat([encodeOption(Option.StartTls), encodeOption(Option.List)]));
  expect(await client.rest()).toHaveLength(0);
});

describe('clients', () => {
  /** Whether a client with these certificates gets an answer. */
  async function isServed(server: string, client: string): Promise<boolean> {
    await using served = await serve([disk], { tls: { mode: 'required', certificates: server } });
    using haggler = await served.client();
    await upgrade(haggler, client);
    // With TLS 1.3 a client learns after its handshake that it is not let in.
    haggler.send(Option.List);
    return (await haggler.answers(Option.List).catch(() => [])).length > 0;
  }

  test('that the authority has signed are let in', async () => {
    expect(await isServed(certificates.server, certificates.client)).toBe(true);
  });

  test('without a certificate are not', async () => {
    expect(await isServed(certificates.server, certificates.anonymousClient)).toBe(false);
  });

  test('that another authority has signed are not', async () => {
    expect(await isServed(certificates.server, certificates.stranger)).toBe(false);
  });

  test('are all let in where there is no authority to judge them', async () => {
    expect(await isServed(certificates.openServer, certificates.anonymousClient)).toBe(true);
  });
});

describe('a TLS handshake', () => {
  test('that is none closes the connection', async () => {
    await using served = await serve([disk], { tls: required(), clock: new ManualClock() });
    using client = await served.client();
    await client.ask(Option.StartTls);
    client.stream.write(encodeOption(Option.List));
    // TLS says goodbye, and no more.
    expect((await client.rest()).length).toBeLessThan(20);
    client.stream.end();
    await expect.poll(() => served.server.connections).toBe(0);
  });

  test('that does not come is not waited for without end', async () => {
    const clock = new ManualClock();
    await using served = await serve([disk], { tls: required(), clock });
    using client = await served.client();
    await client.ask(Option.StartTls);
    await clock.advance(10_000);
    expect(await client.rest()).toHaveLength(0);
    await expect.poll(() => served.server.connections).toBe(0);
  });

  test('that the client leaves is no trouble', async () => {
    await using served = await serve([disk], { tls: required(), clock: new ManualClock() });
    using client = await served.client();
    await client.ask(Option.StartTls);
    client.socket.destroy();
    await expect.poll(() => served.server.connections).toBe(0);
  });
});

test('disconnect and close end connections with TLS', async () => {
  await using served = await serve([disk], { tls: required(), clock: new ManualClock() });
  using first = await served.client();
  await upgrade(first, certificates.client);
  await first.ask(Option.Go, encodeInfo('disk'));
  served.server.disconnect('disk');
  await first.rest();
  using second = await served.client();
  await upgrade(second, certificates.client);
  await second.ask(Option.Go, encodeInfo('disk'));
  const closing = served.server.close();
  expect(await second.rest()).toHaveLength(0);
  second.stream.end();
  await closing;
  expect(served.server.connections).toBe(0);
});

describe('certificates', () => {
  const listen = { kind: 'unix', path: directory.file('socket') } as const;

  test('that are not there are refused before anyone connects', async () => {
    const tls: NbdServerTls = { mode: 'required', certificates: certificates.client };
    await expect(NbdServer.listen({ exports: tableOf([]), listen, tls })).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
    });
  });

  test('that are broken are refused before anyone connects', async () => {
    await using broken = temporaryDirectory();
    await Promise.all(
      ['server-cert.pem', 'server-key.pem'].map((name) => writeFile(broken.file(name), 'no certificate')),
    );
    const tls: NbdServerTls = { mode: 'optional', certificates: broken.path };
    await expect(NbdServer.listen({ exports: tableOf([]), listen, tls })).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
    });
    await rm(listen.path, { force: true });
  });
});

needs('openssl', 'nbdinfo')('nbdinfo connects with TLS', async () => {
  await using served = await serve([disk], { tls: required() });
  const uri = `${served.server.uriOf('disk')}&tls-certificates=${certificates.client}&tls-hostname=localhost`;
  const { exitCode, stdout, stderr } = await runProcess('nbdinfo', [uri]);
  expect(stderr).toBe('');
  expect(exitCode).toBe(0);
  expect(stdout).toMatch(/^protocol: newstyle-fixed with TLS/);
  const refused = await runProcess('nbdinfo', [served.server.uriOf('disk').replace('nbds', 'nbd')]);
  expect(refused.exitCode).not.toBe(0);
});
