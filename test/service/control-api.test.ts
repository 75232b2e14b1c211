import { stat } from 'node:fs/promises';
import http from 'node:http';
import { text } from 'node:stream/consumers';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { ClusterService, ControlApi, ControlClient, NbdDevice, openImage } from 'cofferdam';
import { realClock } from '#src/runtime/clock';
import { parseClusterConfig } from '#src/servers/cluster-config';
import { Snapshots } from '#src/service/snapshots';
import { randomBytes, readBytes } from '../support/bytes.js';
import { memory, serveCluster } from './cluster.js';

interface Answer {
  status: number;
  body: string;
}

/** A request as anybody could make it. */
async function ask(
  at: { socketPath: string } | { port: number },
  method: string,
  path: string,
  body?: string,
  headers: Record<string, string> = { 'content-type': 'application/json' },
): Promise<Answer> {
  const request = http.request({ ...at, method, path, headers: body === undefined ? {} : headers });
  request.end(body);
  const response = await new Promise<http.IncomingMessage>((resolve, reject) => {
    request.on('response', resolve);
    request.on('error', reject);
  });
  return { status: response.statusCode ?? 0, body: await text(response) };
}

const anything = z.any();
const post = (path: string, body: object): { method: 'POST'; path: string; body: object } => ({
  method: 'POST',
  path,
  body,
});

describe('requests that make no sense', () => {
  test.each([
    ['an unknown route', 'GET', '/v1/nothing', undefined, 404, 'CONTROL_FAILED'],
    ['a field that is missing', 'POST', '/v1/snapshots', '{}', 400, 'BAD_ARGUMENT'],
    ['a body that is not JSON', 'POST', '/v1/snapshots', '{', 400, 'BAD_ARGUMENT'],
    [
      'a body that is too long',
      'POST',
      '/v1/snapshots',
      `{"name":"${'x'.repeat(2 ** 21)}"}`,
      400,
      'BAD_ARGUMENT',
    ],
    [
      'an unknown server',
      'POST',
      '/v1/servers/z/release',
      '{"epoch":1,"coordinator":"x"}',
      404,
      'UNKNOWN_DEVICE',
    ],
    ['an unknown job', 'GET', '/v1/backups/7', undefined, 404, 'UNKNOWN_JOB'],
    ['events of an unknown job', 'GET', '/v1/backups/7/events', undefined, 404, 'UNKNOWN_JOB'],
    ['an unknown snapshot', 'DELETE', '/v1/snapshots/x', undefined, 404, 'UNKNOWN_SNAPSHOT'],
    ['an unknown fault', 'DELETE', '/v1/faults/1', undefined, 404, 'UNKNOWN_FAULT'],
    ['an unknown fault, with JSON of no length', 'DELETE', '/v1/faults/1', '', 404, 'UNKNOWN_FAULT'],
    ['JSON of no length where there are fields', 'POST', '/v1/snapshots', '', 400, 'BAD_ARGUMENT'],
    [
      'an epoch that is no number',
      'POST',
      '/v1/servers/a/release',
      '{"epoch":"1","coordinator":"x"}',
      400,
      'BAD_ARGUMENT',
    ],
  ] as const)(
    '%s is answered with a code and no trace of the program',
    async (_, method, path, body, status, code) => {
      await using served = await serveCluster({ servers: [memory('a')] });
      const answer = await ask({ socketPath: served.socket }, method, path, body);
      expect(answer.status).toBe(status);
      expect(JSON.parse(answer.body)).toMatchObject({ code });
      expect(answer.body).not.toMatch(/\n *at |node_modules|stack/);
      expect(await served.client.status()).toMatchObject({ servers: [{ id: 'a' }] });
    },
  );
});

describe('a request with a field that there is not does nothing, and is told which there are', () => {
  const ticket = { epoch: 1, coordinator: 'x' };
  test.each([
    ['/v1/power-cut', { server: 'b' }, 'server; the fields are servers, seed'],
    ['/v1/snapshots', { name: 'x', server: ['a'] }, 'server; the fields are name, servers'],
    ['/v1/backups', { to: '/nowhere/x', server: ['a'] }, 'server; the fields are to, servers'],
    ['/v1/faults', { server: 'a', operation: 'read', times: 1 }, 'times; the fields are server, operation'],
    [
      '/v1/faults',
      { server: 'a', operation: 'read', range: { offsetBytes: 0, lengthBytes: 1, length: 1 } },
      'length; the fields are offsetBytes, lengthBytes',
    ],
    ['/v1/servers/a/cut', { ...ticket, leaseMs: 1, fixedBy: 'snapshot', blockSizeBytes: 4096, x: 1 }, 'x'],
    ['/v1/servers/a/renew', { ...ticket, leaseMs: 1, lease: 1 }, 'lease; the fields are epoch'],
    ['/v1/servers/a/release', { ...ticket, x: 1 }, 'x; the fields are epoch, coordinator'],
    [
      '/v1/sources/9b2f7d52-1c3e-4f6a-8d7b-0a1b2c3d4e5f/copied',
      { ranges: [], range: [] },
      'range; the fields are ranges',
    ],
  ])('%s %j', async (path, body, known) => {
    await using served = await serveCluster({
      servers: ['a', 'b'].map((id) => ({ ...memory(id), volatileCache: true })),
    });
    const device = served.service.cluster.client('a');
    await device.write(0, new Uint8Array(512).fill(1));
    await expect(served.client.get(anything, post(path, body))).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
      message: expect.stringContaining(`there is no field ${known}`),
    });
    expect((await readBytes(device, 0, 512)).every((byte) => byte === 1)).toBe(true);
    expect(await served.client.status()).toMatchObject({ snapshots: [], backups: [] });
  });
});

test('a request that has no fields does nothing if it is sent some', async () => {
  await using served = await serveCluster({ servers: [memory('a'), memory('b')] });
  const { client } = served;
  await client.get(anything, post('/v1/snapshots', { name: 'noon' }));
  const drop = (body: object): Promise<void> =>
    client.send({ method: 'DELETE', path: '/v1/snapshots/noon', body });
  await expect(drop({ servers: ['a'] })).rejects.toMatchObject({
    code: 'BAD_ARGUMENT',
    message: 'DELETE /v1/snapshots/:name: there is no field servers',
  });
  expect((await client.status()).snapshots).toMatchObject([{ name: 'noon', broken: null }]);
  await drop({});
  expect((await client.status()).snapshots).toEqual([]);
});

test.each([
  ['/v1/snapshots', {}, 'name: is missing'],
  ['/v1/snapshots', { name: 'a/b' }, 'name: cannot name a snapshot: use 1 to 64 of'],
  ['/v1/snapshots', { name: 'x', servers: [] }, 'servers: must have at least 1 of them'],
  ['/v1/backups', { to: '' }, 'to: must have at least 1 characters'],
  ['/v1/backups', { to: '/x', workers: 9999 }, 'workers: must be at most 64, not 9999'],
  ['/v1/backups', { to: '/x', initialise: 'yes' }, 'initialise: must be true or false, not "yes"'],
  ['/v1/faults', { server: 'a', operation: 'reads' }, 'operation: must be one of read, write, flush'],
  ['/v1/faults', { server: 'a', operation: 'read', fault: {} }, 'fault: must be one of {error: CODE}'],
])('%s %j: %s', async (path, body, message) => {
  await using served = await serveCluster({ servers: [memory('a')] });
  await expect(served.client.get(anything, post(path, body))).rejects.toMatchObject({
    code: 'BAD_ARGUMENT',
    message: expect.stringContaining(`POST ${path}: ${message}`),
  });
});

test('the document describes every route that there is', async () => {
  await using served = await serveCluster({ servers: [memory('a')] });
  const { body } = await ask({ socketPath: served.socket }, 'GET', '/openapi.json');
  const document = JSON.parse(body) as { openapi: string; paths: Record<string, object> };
  expect(document.openapi).toBe('3.1.0');
  const routes = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method} ${path}`),
  );
  expect(routes).toEqual(
    expect.arrayContaining([
      'get /v1/status',
      'post /v1/power-cut',
      'post /v1/faults',
      'delete /v1/faults/{fault}',
      'post /v1/servers/{id}/cut',
      'post /v1/servers/{id}/renew',
      'post /v1/servers/{id}/release',
      'delete /v1/servers/{id}/tracking/{epoch}',
      'get /v1/sources/{lease}',
      'post /v1/sources/{lease}/copied',
      'delete /v1/sources/{lease}',
      'post /v1/snapshots',
      'delete /v1/snapshots/{name}',
      'post /v1/backups',
      'get /v1/backups/{job}/events',
    ]),
  );
});

test('the document describes what every route answers, and how it refuses', async () => {
  await using served = await serveCluster({ servers: [memory('a')] });
  const { body } = await ask({ socketPath: served.socket }, 'GET', '/openapi.json');
  type Answer = { content?: Record<string, { schema: { properties?: object } }> };
  const { paths } = JSON.parse(body) as {
    paths: Record<string, Record<string, { responses: Record<string, Answer> }>>;
  };
  const routes = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { responses }]) => ({ route: `${method} ${path}`, responses })),
  );
  const fields = (answer: Answer | undefined, type: string): string[] =>
    Object.keys(answer?.content?.[type]?.schema.properties ?? {});
  for (const { route, responses } of routes) {
    const { '4XX': refused, '5XX': failed, ...given } = responses;
    for (const failure of [refused, failed])
      expect(fields(failure, 'application/json'), route).toEqual(expect.arrayContaining(['code', 'message']));
    expect(Object.keys(given), route).toHaveLength(1);
    // No content is what 204 means.
    for (const [status, { content }] of Object.entries(given))
      expect(content !== undefined, route).toBe(status !== '204');
  }
  const events = routes.find(({ route }) => route === 'get /v1/backups/{job}/events')?.responses['200'];
  expect(fields(events, 'text/event-stream')).toEqual(
    expect.arrayContaining(['job', 'state', 'result', 'error']),
  );
});

test('only the owner may open the socket', async () => {
  await using served = await serveCluster({ servers: [memory('a')] });
  expect((await stat(served.socket)).mode & 0o777).toBe(0o600);
});

describe('over TCP', () => {
  const token = 'a secret of many letters';
  const config = (directory: string): ReturnType<typeof parseClusterConfig> =>
    parseClusterConfig({ listen: `nbd+unix:///?socket=${directory}/other`, servers: [memory('a')] });

  test('whoever has no token, or another one, is refused', async () => {
    await using other = await serveCluster({ servers: [memory('b')] });
    await using service = await ClusterService.start(config(other.directory.path));
    const listen = { kind: 'http', host: '127.0.0.1', port: 0 } as const;
    await expect(ControlApi.listen({ service, listen })).rejects.toMatchObject({ code: 'BAD_CONFIG' });
    await using api = await ControlApi.listen({ service, listen, token });
    for (const wrong of [undefined, 'another secret of letters', token.slice(1), `${token}x`]) {
      await using client = new ControlClient({ address: api.address, token: wrong });
      await expect(client.status()).rejects.toMatchObject({ code: 'FORBIDDEN' });
    }
    await using client = new ControlClient({ address: api.address, token });
    expect(await client.status()).toMatchObject({ servers: [{ id: 'a' }] });
  });
});

test('a process that is not there is named', async () => {
  await using served = await serveCluster({ servers: [memory('a')] });
  await using client = new ControlClient({ address: { kind: 'unix', path: `${served.socket}.not` } });
  await expect(client.status()).rejects.toMatchObject({
    code: 'CONNECTION_FAILED',
    message: expect.stringContaining('is cofferdam serve running there?'),
  });
});

describe('a named snapshot', () => {
  test('shows what was there at its cut, until it is dropped', async () => {
    await using served = await serveCluster({ servers: [memory('a'), memory('b')] });
    const { client, service } = served;
    const before = randomBytes(2 ** 20, 1);
    await service.cluster.client('a').write(0, before);
    const made = await client.get(anything, post('/v1/snapshots', { name: 'noon' }));
    expect(made).toMatchObject({ name: 'noon', exports: [{ server: 'a' }, { server: 'b' }] });
    await service.cluster.client('a').write(0, new Uint8Array(2 ** 19));
    const { uri } = (made as { exports: { uri: string }[] }).exports[0] ?? { uri: '' };
    await using device = await NbdDevice.open(uri, { reconnectMs: 0 });
    expect(Buffer.compare(await readBytes(device), before)).toBe(0);
    expect(device.capabilities.readOnly).toBe(true);

    await expect(client.get(anything, post('/v1/snapshots', { name: 'noon' }))).rejects.toMatchObject({
      code: 'TARGET_EXISTS',
    });
    expect((await client.status()).snapshots).toHaveLength(1);
    await client.send({ method: 'DELETE', path: '/v1/snapshots/noon' });
    await expect(device.read(0, new Uint8Array(1))).rejects.toThrow();
    await expect(NbdDevice.open(uri)).rejects.toMatchObject({ code: 'UNKNOWN_EXPORT' });
    expect((await client.status()).servers.map(({ snapshots }) => snapshots)).toEqual([0, 0]);
  });

  test('that a power cut broke is told to be broken', async () => {
    await using served = await serveCluster({ servers: [memory('a'), memory('b')] });
    const { client } = served;
    const made = await client.get(anything, post('/v1/snapshots', { name: 'noon' }));
    expect(made).toMatchObject({ name: 'noon', broken: null });
    await client.get(anything, post('/v1/snapshots', { name: 'of-a', servers: ['a'] }));
    await client.get(anything, post('/v1/power-cut', { servers: ['b'] }));
    const told = [
      { name: 'noon', broken: expect.stringMatching(/b.*power/) },
      { name: 'of-a', broken: null },
    ];
    expect((await client.status()).snapshots).toMatchObject(told);
    expect(await client.get(anything, { method: 'GET', path: '/v1/snapshots' })).toMatchObject(told);
    await client.send({ method: 'DELETE', path: '/v1/snapshots/noon' });
  });

  test('that is dropped while it is made leaves nothing in the way of the next', async () => {
    await using served = await serveCluster({ servers: [memory('a'), memory('b'), memory('c')] });
    const snapshots = new Snapshots(served.service, realClock);
    // Wherever in the making the drop comes; it ends long before the last of these.
    for (let turns = 0; turns < 100; turns++) {
      const made = snapshots.create({ name: 'x', blockSizeBytes: 4096, maxStallMs: 10_000 });
      for (let turn = 0; turn < turns; turn++) await Promise.resolve();
      const early = await Promise.allSettled([snapshots.drop('x')]);
      expect((await made).exports).toHaveLength(3);
      if (early[0].status === 'rejected') await snapshots.drop('x');
      expect(() => served.service.uriOf('a@x')).toThrow();
      expect(() => served.service.uriOf('c@x')).toThrow();
    }
  });
});

describe('faults and power', () => {
  test('an injected fault happens to clients until it is taken away', async () => {
    await using served = await serveCluster({ servers: [{ ...memory('a'), faults: true }, memory('b')] });
    const { client, service } = served;
    await using device = await NbdDevice.open(service.uriOf('a'));
    const fault = await client.get(anything, post('/v1/faults', { server: 'a', operation: 'write' }));
    expect(fault).toMatchObject({ fault: 1, server: 'a', hits: 0 });
    await expect(device.write(0, new Uint8Array(512))).rejects.toMatchObject({ code: 'DEVICE_IO' });
    expect(await client.get(anything, { method: 'GET', path: '/v1/faults' })).toMatchObject([
      { fault: 1, hits: 1 },
    ]);
    expect(await client.get(anything, { method: 'DELETE', path: '/v1/faults/1' })).toMatchObject({ hits: 1 });
    await device.write(0, new Uint8Array(512));
    await expect(
      client.get(anything, post('/v1/faults', { server: 'b', operation: 'write' })),
    ).rejects.toMatchObject({ code: 'BAD_CONFIG' });
  });

  test('a fault that hangs does not hold up the end of the service', async () => {
    const served = await serveCluster({ servers: [{ ...memory('a'), faults: true }] });
    await served.client.get(
      anything,
      post('/v1/faults', { server: 'a', operation: 'any', fault: { hang: true } }),
    );
    await using device = await NbdDevice.open(served.service.uriOf('a'), { reconnectMs: 0 });
    const hanging = device.write(0, new Uint8Array(512)).catch(() => {});
    await served[Symbol.asyncDispose]();
    await hanging;
    await expect(served.client.status()).rejects.toMatchObject({
      code: expect.stringMatching(/^CONNECTION_/),
    });
  });

  test('a power cut takes what was not flushed, and disconnects the clients of its servers alone', async () => {
    await using served = await serveCluster({
      servers: [{ ...memory('a'), volatileCache: true }, memory('b')],
      volumes: [{ id: 'v', kind: 'striped', of: ['a', 'b'] }],
    });
    const { client, service } = served;
    const open = (name: string): Promise<NbdDevice> =>
      NbdDevice.open(service.uriOf(name), { reconnectMs: 0 });
    await using a = await open('a');
    await using b = await open('b');
    await using v = await open('v');
    await a.write(0, new Uint8Array(4096).fill(1));
    await a.flush();
    expect(await client.get(anything, post('/v1/power-cut', { servers: ['a'], seed: 5 }))).toEqual({
      seed: 5,
    });
    await expect(a.read(0, new Uint8Array(1))).rejects.toMatchObject({
      code: expect.stringMatching(/CONNECTION/),
    });
    await expect(v.read(0, new Uint8Array(1))).rejects.toMatchObject({
      code: expect.stringMatching(/CONNECTION/),
    });
    await b.read(0, new Uint8Array(1));
    await using again = await open('a');
    expect((await readBytes(again, 0, 4096)).every((byte) => byte === 1)).toBe(true);
  });
});

describe('a backup job', () => {
  test('runs in the process, tells how far it is, and ends with its result', async () => {
    await using served = await serveCluster({ servers: [memory('a', '8MiB'), memory('b')] });
    const { client, service, directory } = served;
    const content = randomBytes(8 * 2 ** 20, 1);
    await service.cluster.client('a').write(0, content);
    const seen: number[] = [];
    const result = await client.backup(
      { to: directory.file('image') },
      {
        signal: new AbortController().signal,
        onProgress: (devices) => seen.push(devices.reduce((sum, device) => sum + device.doneBytes, 0)),
      },
    );
    expect(result).toMatchObject({
      generation: 1,
      consistency: 'group',
      devices: [{ id: 'a' }, { id: 'b' }],
    });
    expect(seen.at(-1)).toBe(9 * 2 ** 20);
    const [job] = (await client.status()).backups;
    expect(job).toMatchObject({
      job: 1,
      state: 'done',
      error: null,
      result: { fingerprint: result.fingerprint },
    });
    await using image = await openImage(directory.file('image'));
    expect(image.generations).toHaveLength(1);
  });

  test('says why it failed', async () => {
    await using served = await serveCluster({ servers: [memory('a')] });
    const failed = served.client.backup({ to: '/nowhere/image' }, { signal: new AbortController().signal });
    await expect(failed).rejects.toMatchObject({
      code: 'DEVICE_NOT_FOUND',
      message: expect.stringContaining('/nowhere'),
    });
    expect(await served.client.status()).toMatchObject({ backups: [{ state: 'failed', result: null }] });
  });

  test('is cancelled by whoever asked for it, and leaves the image as it was', async () => {
    await using served = await serveCluster({ servers: [memory('a', '64MiB')] });
    const { client, service, directory } = served;
    await service.cluster.client('a').write(0, randomBytes(64 * 2 ** 20, 1));
    const aborter = new AbortController();
    const slow = client.backup(
      { to: directory.file('image'), limitBytesPerSecond: 2 ** 20 },
      {
        signal: aborter.signal,
        onProgress: ([device]) => void (device && device.doneBytes > 0 && aborter.abort()),
      },
    );
    await expect(slow).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(await client.status()).toMatchObject({ servers: [{ snapshots: 0, barrierUp: false }] });
    await using image = await openImage(directory.file('image'));
    expect(image.generations).toEqual([]);
  });

  test('is cancelled when the service ends, and whoever waits for it is told so', async () => {
    await using served = await serveCluster({ servers: [memory('a', '64MiB')] });
    const { client, service, directory } = served;
    await service.cluster.client('a').write(0, randomBytes(64 * 2 ** 20, 1));
    let hasBegun = false;
    const slow = client.backup(
      { to: directory.file('image'), limitBytesPerSecond: 2 ** 20 },
      {
        signal: new AbortController().signal,
        onProgress: ([device]) => (hasBegun ||= (device?.doneBytes ?? 0) > 0),
      },
    );
    const outcome = slow.catch((error: unknown) => error);
    await expect.poll(() => hasBegun).toBe(true);
    await served.api.close();
    expect(await outcome).toMatchObject({
      code: 'CANCELLED',
      message: expect.stringContaining('was stopped before the backup was done; nothing was committed'),
    });
  });

  test('whose connection is lost says what tells how it ended', async () => {
    await using served = await serveCluster({ servers: [memory('a', '64MiB')] });
    const { client, service, directory } = served;
    await service.cluster.client('a').write(0, randomBytes(64 * 2 ** 20, 1));
    const to = directory.file('image');
    const backup = client.backup(
      { to, limitBytesPerSecond: 2 ** 20 },
      { signal: new AbortController().signal, onProgress: () => void client.close() },
    );
    await expect(backup).rejects.toMatchObject({
      code: 'CONNECTION_LOST',
      message: expect.stringContaining(`cofferdam list ${to} tells whether the backup was made`),
    });
  });
});
