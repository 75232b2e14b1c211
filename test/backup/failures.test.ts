import { link, readFile, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect } from 'vitest';
import {
  backup,
  CofferdamError,
  MemoryDevice,
  StorageServer,
  type Cluster,
  type ServerControl,
} from 'cofferdam';
import { clusterTest } from 'cofferdam/vitest';
import { DeviceStore } from '#src/backup/image/device-store';
import { BackupImage } from '#src/backup/image/image';
import { openImage } from '#src/backup/image/open';
import { ReadOnlyDevice } from '#src/devices/read-only';
import { loadCore } from '#src/core/load';
import { KiB, MiB } from '#src/runtime/sizes';
import { turns } from '../support/manual-clock.js';

const SIZE = 4 * MiB;

/** Two servers on files, of which `b` has a fault injector, and one in memory. */
const test = clusterTest((directory) => ({
  servers: [
    { id: 'a', device: { kind: 'file', path: join(directory, 'a.img'), create: SIZE } },
    { id: 'b', device: { kind: 'file', path: join(directory, 'b.img'), create: SIZE }, faults: true },
    { id: 'c', device: { kind: 'memory', size: SIZE }, preImages: { memory: 0, spill: 0 } },
  ],
}));

async function fill(cluster: Cluster): Promise<void> {
  for (const [i, { client }] of cluster.servers.entries()) {
    for (let offset = 0; offset < SIZE; offset += MiB) {
      await client.write(offset, Buffer.alloc(MiB, `${i}:${offset} `));
    }
  }
}

/** What must hold after a backup that failed: nothing is up, nothing is live, clients can write. */
async function assertUntouched(cluster: Cluster, image: string, generations: number): Promise<void> {
  await turns();
  for (const server of cluster.servers) {
    expect(await server.status()).toMatchObject({ barrierUp: false, parked: 0, inFlight: 0, snapshots: 0 });
    await server.client.write(0, new Uint8Array(512));
  }
  if (generations === 0) return;
  await using opened = await openImage(image);
  expect(opened.generations).toHaveLength(generations);
  expect(opened.warnings).toEqual([]);
}

const strategies = ['snapshot', 'hold', 'rolling'] as const;

describe.each(strategies)('%s', (strategy) => {
  test('a source that cannot be read fails the backup and names the place', async ({
    cluster,
    directory,
  }) => {
    await fill(cluster);
    const to = join(directory, 'x.cofferdam');
    const { servers } = cluster;
    await backup({ servers, to, strategy });
    cluster.injectFault('b', {
      operation: 'read',
      range: { offsetBytes: 3 * MiB, lengthBytes: 512 },
      fault: { error: 'DEVICE_IO' },
    });
    const failed = backup({ servers, to, strategy });
    await expect(failed).rejects.toMatchObject({ code: 'SOURCE_READ_FAILED', device: 'b' });
    const error = (await failed.catch((e: unknown) => e)) as { offsetBytes: number; lengthBytes: number };
    expect(error.offsetBytes).toBeLessThanOrEqual(3 * MiB);
    expect(error.offsetBytes + error.lengthBytes).toBeGreaterThan(3 * MiB);
    await assertUntouched(cluster, to, 1);
  });

  test('a source that shrinks fails the backup', async ({ cluster, directory }) => {
    await fill(cluster);
    const to = join(directory, 'x.cofferdam');
    await backup({ servers: cluster.servers, to, strategy });
    await truncate(join(directory, 'a.img'), 2 * MiB);
    await expect(backup({ servers: cluster.servers, to, strategy })).rejects.toMatchObject({
      code: 'SOURCE_SHRUNK',
      device: 'a',
    });
    await truncate(join(directory, 'a.img'), SIZE);
    await assertUntouched(cluster, to, 1);
  });

  test('a target without room fails the backup, which leaves its earlier generation', async ({ cluster }) => {
    await fill(cluster);
    const medium = new MemoryDevice(20 * MiB);
    const core = await loadCore();
    await using image = await BackupImage.initialise(new DeviceStore(medium), core);
    await backup({ servers: cluster.servers, to: image, strategy });
    const full = backup({ servers: cluster.servers, to: image, strategy });
    await expect(full).rejects.toMatchObject({ code: 'TARGET_FULL' });
    await assertUntouched(cluster, '', 0);
    const again = await BackupImage.open(new DeviceStore(medium), core);
    expect(again.generations).toHaveLength(1);
  });

  test('a cancelled backup stops in the middle and leaves nothing', async ({ cluster, directory }) => {
    await fill(cluster);
    const to = join(directory, 'x.cofferdam');
    await backup({ servers: cluster.servers, to, strategy });
    const before = await readFile(to);
    const cancel = new AbortController();
    const running = backup({
      servers: cluster.servers,
      to,
      strategy,
      limitBytesPerSecond: 2 * MiB,
      signal: cancel.signal,
      onProgress: (devices) => {
        if (devices.some((device) => device.doneBytes > 0)) cancel.abort();
      },
    });
    await expect(running).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(Buffer.compare(await readFile(to), before)).toBe(0);
    await assertUntouched(cluster, to, 1);
  });

  test('a server that loses its power in the middle voids the backup', async ({ cluster, directory }) => {
    await fill(cluster);
    const to = join(directory, 'x.cofferdam');
    await backup({ servers: cluster.servers, to, strategy });
    let cut: Promise<void> | undefined;
    const running = backup({
      servers: cluster.servers,
      to,
      strategy,
      limitBytesPerSecond: 8 * MiB,
      onProgress: (devices) => {
        if (devices.some((device) => device.doneBytes > 0)) cut ??= cluster.powerCut({ seed: 1 });
      },
    });
    await expect(running).rejects.toMatchObject({
      code: expect.stringMatching(/^(CUT_VOID|SNAPSHOT_BROKEN)$/),
    });
    await cut;
    await assertUntouched(cluster, to, 1);
  });
});

describe('the stall budget', () => {
  test.for([
    { strategy: 'snapshot', closingCut: true },
    { strategy: 'hold', closingCut: true },
  ] as const)(
    'of $strategy fails the backup, not the write that takes long',
    async (options, { cluster, directory }) => {
      const to = join(directory, 'x.cofferdam');
      await backup({ servers: cluster.servers, to });
      const stuck = cluster.injectFault('b', { operation: 'write', fault: { hang: true } });
      const slow = cluster.client('b').write(0, new Uint8Array(512));
      await turns();
      const failed = backup({ servers: cluster.servers, to, ...options, maxStallMs: 100 });
      await expect(failed).rejects.toMatchObject({ code: 'STALL_BUDGET_EXCEEDED', device: 'b' });
      stuck.release();
      await slow;
      await assertUntouched(cluster, to, 1);
    },
  );

  test('of hold counts the time of the copy', async ({ cluster, directory }) => {
    await fill(cluster);
    const to = join(directory, 'x.cofferdam');
    const failed = backup({
      servers: cluster.servers,
      to,
      strategy: 'hold',
      maxStallMs: 100,
      limitBytesPerSecond: MiB,
    });
    await expect(failed).rejects.toMatchObject({ code: 'STALL_BUDGET_EXCEEDED' });
    await assertUntouched(cluster, to, 0);
  });
});

test('a snapshot out of room for pre-images breaks, the writes go on', async ({ cluster, directory }) => {
  await fill(cluster);
  const to = join(directory, 'x.cofferdam');
  let write: Promise<void> | undefined;
  const failed = backup({
    servers: cluster.servers,
    to,
    limitBytesPerSecond: 8 * MiB,
    onProgress: () => {
      write ??= cluster.client('c').write(SIZE - 512, new Uint8Array(512).fill(1));
    },
  });
  await expect(failed).rejects.toMatchObject({ code: 'SNAPSHOT_BROKEN', device: 'c' });
  await write;
  await assertUntouched(cluster, to, 0);
});

test.each(['CUT_VOID', 'SNAPSHOT_BROKEN'] as const)(
  'a read that fails because the contents are not those of the cut any more is told as %s',
  async (code) => {
    await using server = new StorageServer({ id: 'a', device: new MemoryDevice(64 * KiB) });
    await server.client.write(0, Buffer.alloc(64 * KiB, 1));
    /** As a server elsewhere answers whose barrier came down: NBD has no word for that. */
    const control: ServerControl = {
      id: 'a',
      sizeBytes: server.sizeBytes,
      identities: [],
      status: () => server.status(),
      renew: (ticket, leaseMs) => server.renew(ticket, leaseMs),
      release: (ticket) => server.release(ticket),
      stopTracking: (epoch) => server.stopTracking(epoch),
      cut: async (request) => {
        const { epoch, source } = await server.cut(request);
        const device = new ReadOnlyDevice('elsewhere', server.sizeBytes, 4 * KiB, {
          read: () => Promise.reject(new CofferdamError('DEVICE_IO', 'the server answered EIO')),
          allocation: (offsetBytes, lengthBytes) => source.device.allocation(offsetBytes, lengthBytes),
        });
        const lost = new CofferdamError(code, 'the barrier came down');
        return {
          epoch,
          source: {
            device,
            native: undefined,
            selected: undefined,
            markCopied: () => {},
            assertIntact: () => Promise.reject(lost),
            close: () => source.close(),
            [Symbol.asyncDispose]: () => source.close(),
          },
        };
      },
    };
    const image = await BackupImage.initialise(new DeviceStore(new MemoryDevice(MiB)), await loadCore());
    await expect(backup({ servers: [control], to: image })).rejects.toMatchObject({ code });
  },
);

/** A server in whose snapshots everything can be read, and which then does not vouch for them. */
function unsure(server: ServerControl): ServerControl {
  return {
    id: server.id,
    sizeBytes: server.sizeBytes,
    identities: server.identities,
    status: () => server.status(),
    renew: (ticket, leaseMs) => server.renew(ticket, leaseMs),
    release: (ticket) => server.release(ticket),
    stopTracking: (epoch) => server.stopTracking(epoch),
    async cut(request) {
      const { epoch, source } = await server.cut(request);
      const broken = new CofferdamError('SNAPSHOT_BROKEN', 'it broke', { device: server.id });
      return {
        epoch,
        source: {
          device: source.device,
          native: undefined,
          selected: source.selected,
          markCopied: (firstBlock, blockCount) => source.markCopied(firstBlock, blockCount),
          assertIntact: () => Promise.reject(broken),
          close: () => source.close(),
          [Symbol.asyncDispose]: () => source.close(),
        },
      };
    },
  };
}

test('a snapshot that is not vouched for in the end fails the backup', async ({ cluster, directory }) => {
  await fill(cluster);
  const to = join(directory, 'x.cofferdam');
  const failed = backup({ servers: [unsure(cluster.server('c'))], to });
  await expect(failed).rejects.toMatchObject({ code: 'SNAPSHOT_BROKEN', device: 'c' });
  await assertUntouched(cluster, to, 0);
});

describe('what is refused before anything is touched', () => {
  test('the same ID twice', async ({ directory }) => {
    const servers = [1, 2].map(() => new StorageServer({ id: 'x', device: new MemoryDevice(MiB) }));
    const to = join(directory, 'x.cofferdam');
    await expect(backup({ servers, to })).rejects.toMatchObject({ code: 'DUPLICATE_DEVICE', device: 'x' });
    await expect(readFile(to)).rejects.toThrow('ENOENT');
  });

  test('a target that is a source, by whatever name', async ({ cluster, directory }) => {
    const { servers } = cluster;
    const source = join(directory, 'a.img');
    const before = await readFile(source);
    await link(source, join(directory, 'hard'));
    await symlink(source, join(directory, 'soft'));
    for (const name of ['a.img', 'hard', 'soft']) {
      const refused = backup({ servers, to: join(directory, name) });
      await expect(refused).rejects.toMatchObject({ code: 'SOURCE_IS_TARGET', device: 'a' });
    }
    expect(Buffer.compare(await readFile(source), before)).toBe(0);
  });

  test('a target that is something else', async ({ cluster, directory }) => {
    const to = join(directory, 'letter.txt');
    await writeFile(to, 'Dear reader, ');
    await expect(backup({ servers: cluster.servers, to })).rejects.toMatchObject({ code: 'NOT_AN_IMAGE' });
    expect(await readFile(to, 'utf8')).toBe('Dear reader, ');
  });

  test.for([
    ['no servers', { servers: [] }],
    ['an ID that is a path', { servers: [new StorageServer({ id: '../x', device: new MemoryDevice(MiB) })] }],
    ['a block size that is no power of two', { blockSizeBytes: 5000 }],
    ['a block size too small', { blockSizeBytes: 2 * KiB }],
    ['a stall budget of nothing', { maxStallMs: 0 }],
    ['a stall budget without bound', { maxStallMs: Infinity }],
    ['a rate of nothing', { limitBytesPerSecond: 0 }],
    ['no workers', { workers: 0 }],
    ['half a worker', { workers: 1.5 }],
    ['snapshot without a closing cut', { strategy: 'snapshot', closingCut: false }],
  ] as const)('%s', async ([, options], { cluster, directory }) => {
    const to = join(directory, 'x.cofferdam');
    const refused = backup({ servers: cluster.servers, to, ...options });
    await expect(refused).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
    await expect(readFile(to)).rejects.toThrow('ENOENT');
  });
});
