import { writeFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import type { ClusterInput } from '#src/servers/cluster-config';
import { openCluster, readClusterFile } from 'cofferdam';
import { temporaryDirectory } from '../support/directory.js';

const memory = (id: string): { id: string; device: { kind: 'memory'; size: string } } => ({
  id,
  device: { kind: 'memory', size: '64KiB' },
});

test('a file that was made when a cluster was first opened is there when it is opened again', async () => {
  await using directory = temporaryDirectory();
  const config: ClusterInput = {
    servers: [{ id: 'a', device: { kind: 'file', path: directory.file('a'), create: 8192 } }],
  };
  {
    await using cluster = await openCluster(config);
    await cluster.client('a').write(100, Buffer.from('kept'));
  }
  await using cluster = await openCluster(config);
  const bytes = Buffer.alloc(4);
  await cluster.client('a').read(100, bytes);
  expect(bytes.toString()).toBe('kept');
});

test('the paths of a file are relative to its folder', async () => {
  await using directory = temporaryDirectory();
  const path = directory.file('cluster.yaml');
  await writeFile(
    path,
    `servers:
  - id: a
    device: { kind: file, path: a.img }
    listen: nbd+unix:///?socket=a.sock
    control: a-control.sock
    preImages: { directory: spill }
`,
  );
  expect(await readClusterFile(path)).toMatchObject({
    listen: { address: { path: directory.file('cofferdam.sock') } },
    control: { path: directory.file('cofferdam-control.sock') },
    servers: [
      {
        device: { path: directory.file('a.img') },
        listen: { address: { path: directory.file('a.sock') } },
        control: { path: directory.file('a-control.sock') },
        preImages: { directory: directory.file('spill') },
      },
    ],
  });
});

describe('a configuration', () => {
  test('builds every kind of device, with sizes as text or numbers', async () => {
    await using directory = temporaryDirectory();
    const create = { kind: 'file', create: '1MiB' } as const;
    await using cluster = await openCluster({
      servers: [
        { id: 'file', device: { ...create, path: directory.file('f') } },
        { id: 'memory', device: { kind: 'memory', size: 12345 } },
        {
          id: 'raid10',
          device: {
            kind: 'striped',
            stripe: '4KiB',
            of: [
              {
                kind: 'mirrored',
                of: [
                  { ...create, path: directory.file('1') },
                  { kind: 'memory', size: '1MiB' },
                ],
              },
              { kind: 'memory', size: '1MiB' },
            ],
          },
          volatileCache: true,
        },
      ],
    });
    expect(cluster.servers.map(({ id, sizeBytes }) => [id, sizeBytes])).toEqual([
      ['file', 1048576],
      ['memory', 12345],
      ['raid10', 2097152],
    ]);
    const client = cluster.client('raid10');
    await client.write(5000, new Uint8Array(9000).fill(7));
    const back = new Uint8Array(9000);
    await client.read(5000, back);
    expect(back.every((byte) => byte === 7)).toBe(true);
  });

  test.for([
    ['no servers', { servers: [] }, /servers/],
    ['an unknown key', { servers: [{ ...memory('a'), colour: 'red' }] }, /colour/],
    ['an unknown kind', { servers: [{ id: 'a', device: { kind: 'tape' } }] }, /device/],
    [
      'a size that is none',
      { servers: [{ id: 'a', device: { kind: 'memory', size: 'big' } }] },
      /^cluster configuration: servers\.0\.device\.size: "big" is not a size/,
    ],
    ['an ID that is a path', { servers: [memory('../a')] }, /servers\.0\.id/],
    ['an ID twice', { servers: [memory('a'), memory('a')] }, /the ID a is used twice/],
    ['nothing at all', undefined, /the whole/],
    ['a number that JSON has not', { servers: [{ ...memory('a'), id: 5n }] }, /id: must be text, not 5n$/],
    [
      'no number at all',
      { servers: [{ ...memory('a'), volatileCache: NaN }] },
      /volatileCache: must be true or false, not NaN$/,
    ],
    ['a function', { servers: [() => 7] }, /servers\.0: must be an object, not \[Function/],
  ] as const)('with %s is refused', async ([, config, message]) => {
    const refused = openCluster(config as never);
    await expect(refused).rejects.toMatchObject({
      code: 'BAD_CONFIG',
      message: expect.stringMatching(message),
    });
  });

  test('in YAML is refused with the lines of what is wrong', async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('cluster.yaml');
    await writeFile(
      path,
      'servers:\n  - id: a\n    device: { kind: memory, size: 1MiB }\n    cache: yes\n  - id: a\n    device: 7\n',
    );
    await expect(openCluster(path)).rejects.toMatchObject({
      code: 'BAD_CONFIG',
      message: expect.stringMatching(/line 2: .*cache.*line 6: servers\.1\.device/s),
    });
    await writeFile(path, 'servers:\n  - id: "a\n');
    await expect(openCluster(path)).rejects.toMatchObject({
      code: 'BAD_CONFIG',
      message: expect.stringContaining('line'),
    });
    await expect(openCluster(directory.file('none.yaml'))).rejects.toMatchObject({ code: 'BAD_CONFIG' });
  });
});

test('a cluster that cannot open one device closes the others', async () => {
  await using directory = temporaryDirectory();
  const path = directory.file('a.img');
  await writeFile(path, new Uint8Array(4096));
  const missing = { id: 'b', device: { kind: 'mirrored', of: [path, directory.file('none')] } } as const;
  await expect(openCluster({ servers: [memory('m'), missing] })).rejects.toMatchObject({
    code: 'DEVICE_NOT_FOUND',
  });
  // It can be opened again, so its lock is gone.
  await using again = await openCluster({ servers: [{ id: 'a', device: path }] });
  expect(again.server('a').sizeBytes).toBe(4096);
});

test('a composite that cannot be made of its children closes them', async () => {
  await using directory = temporaryDirectory();
  const path = directory.file('a.img');
  await writeFile(path, new Uint8Array(4096));
  const striped = { id: 's', device: { kind: 'striped', stripe: 1000, of: [path] } } as const;
  await expect(openCluster({ servers: [striped] })).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
  await using again = await openCluster({ servers: [{ id: 'a', device: path }] });
  expect(again.server('a').sizeBytes).toBe(4096);
});

test('unknown servers and missing fault injectors are named', async () => {
  await using cluster = await openCluster({ servers: [memory('a'), memory('b')] });
  expect(() => cluster.client('c')).toThrow(/there are a, b/);
  expect(() => cluster.injectFault('a', { operation: 'read' })).toThrow(/faults: true/);
});

test('a power cut takes all servers at once, keeps what was flushed, and is repeated by its seed', async () => {
  const after = async (seed: number): Promise<Buffer> => {
    await using cluster = await openCluster({
      servers: ['a', 'b'].map((id) => ({ ...memory(id), volatileCache: true, faults: true })),
    });
    const { servers } = cluster;
    for (const { client } of servers) {
      await client.write(0, new Uint8Array(8192).fill(1));
      await client.flush();
      for (let sector = 0; sector < 16; sector++)
        await client.write(sector * 512, new Uint8Array(512).fill(2));
    }
    await cluster.powerCut({ seed });
    const contents = await Promise.all(
      servers.map(async ({ client }) => {
        const bytes = Buffer.alloc(8192);
        await client.read(0, bytes);
        return bytes;
      }),
    );
    return Buffer.concat(contents);
  };
  const first = await after(1);
  expect(first.every((byte) => byte === 1 || byte === 2)).toBe(true);
  expect(new Set(first).size).toBe(2);
  expect(Buffer.compare(first, await after(1))).toBe(0);
  expect(Buffer.compare(first, await after(2))).not.toBe(0);
  // Each server loses sectors of its own.
  expect(Buffer.compare(first.subarray(0, 8192), first.subarray(8192))).not.toBe(0);
});
