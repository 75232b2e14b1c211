import { readFile, writeFile } from 'node:fs/promises';
import { describe, expect } from 'vitest';
import { backup } from '#src/backup/backup';
import { GenerationDevice } from '#src/backup/image/generation-device';
import { openImage } from '#src/backup/image/open';
import type { BlockDevice } from '#src/devices/block-device';
import { FileDevice } from '#src/devices/file';
import { MemoryDevice } from '#src/devices/memory';
import { MirroredDevice } from '#src/devices/mirrored';
import { OverlayDevice } from '#src/devices/overlay';
import { StripedDevice } from '#src/devices/striped';
import { KiB, MiB } from '#src/runtime/sizes';
import { StorageServer } from '#src/servers/server';
import { serve } from '../nbd/haggler.js';
import { differenceAt, randomBytes, readBytes } from '../support/bytes.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/directory.js';
import { runFio } from '../support/fio.js';
import { run } from '../support/loop-device.js';
import { needs } from '../support/needs.js';
import { runProcess } from '../support/process.js';

const sizeBytes = 24 * MiB;
const tools = ['nbdinfo', 'nbdcopy', 'qemu-img', 'qemu-io', 'fio'] as const;

/** Data here and there, and holes. */
function makeContent(): Buffer {
  const content = Buffer.alloc(sizeBytes);
  content.set(randomBytes(3 * MiB, 1), MiB);
  content.set(randomBytes(100_000, 2), 10 * MiB + 512);
  content.set(randomBytes(64 * KiB, 3), sizeBytes - 64 * KiB);
  return content;
}

interface Exported extends AsyncDisposable {
  readonly device: BlockDevice;
}

function exported(device: BlockDevice, ...others: AsyncDisposable[]): Exported {
  return {
    device,
    [Symbol.asyncDispose]: async () => {
      await device.close();
      for (const other of others) await other[Symbol.asyncDispose]();
    },
  };
}

const newFile = (directory: TemporaryDirectory, name: string, bytes = sizeBytes): Promise<FileDevice> =>
  FileDevice.open(directory.file(name), { create: { sizeBytes: bytes } });

const threeServers = async (directory: TemporaryDirectory, bytes: number): Promise<StorageServer[]> => {
  const servers: StorageServer[] = [];
  for (const id of ['a', 'b', 'c'])
    servers.push(new StorageServer({ id, device: await newFile(directory, id, bytes) }));
  return servers;
};

/** What can be written to; it reads as zeros at first. */
const writable: Record<string, (directory: TemporaryDirectory) => Promise<Exported>> = {
  'a server on a file': async (directory) => {
    const server = new StorageServer({ id: 'a', device: await newFile(directory, 'a') });
    return exported(server.newClient(), server);
  },
  'a volume striped over servers': async (directory) => {
    const servers = await threeServers(directory, sizeBytes / 3);
    const volume = new StripedDevice(
      servers.map((server) => server.newClient()),
      { stripeBytes: 64 * KiB },
    );
    return exported(volume, ...servers);
  },
  'a volume mirrored on servers': async (directory) => {
    const servers = await threeServers(directory, sizeBytes);
    return exported(new MirroredDevice(servers.map((server) => server.newClient())), ...servers);
  },
  memory: () => Promise.resolve(exported(new MemoryDevice(sizeBytes))),
  'an overlay': async (directory) => {
    const base = await newFile(directory, 'base');
    const overlay = await OverlayDevice.open(directory.file('overlay'), { base, baseName: 'test' });
    return exported(overlay);
  },
};

/** What cannot; it holds the content given. */
const readOnly: Record<string, (directory: TemporaryDirectory, content: Uint8Array) => Promise<Exported>> = {
  'a live snapshot': async (directory, content) => {
    const server = new StorageServer({ id: 'a', device: await newFile(directory, 'a') });
    await server.client.write(0, content);
    await server.client.writeZeroes(5 * MiB, 5 * MiB);
    const ticket = { epoch: 1, coordinator: 'test' };
    const { source } = await server.cut({
      ...ticket,
      leaseMs: 1000,
      fixedBy: 'snapshot',
      blockSizeBytes: 64 * KiB,
    });
    await server.release(ticket);
    // From here on what is read are pre-images.
    await server.client.write(MiB, randomBytes(2 * MiB, 9));
    return exported(source.device, source, server);
  },
  'a generation': async (directory, content) => {
    await using server = new StorageServer({ id: 'a', device: await newFile(directory, 'a') });
    await server.client.write(0, content);
    await backup({ servers: [server], to: directory.file('image') });
    const image = await openImage(directory.file('image'));
    return exported(await GenerationDevice.open(image, 'latest', 'a'), image);
  },
};

async function nbdinfo(...args: string[]): Promise<unknown> {
  return JSON.parse(await run('nbdinfo', '--json', ...args));
}

/** The reading half: it is the size, the content and the map that programs of others see. */
async function expectReadable(uri: string, content: Buffer, directory: TemporaryDirectory): Promise<void> {
  const expected = directory.file('expected');
  await writeFile(expected, content);
  expect(await nbdinfo(uri)).toMatchObject({ exports: [{ 'export-size': sizeBytes }] });
  expect(await nbdinfo('--list', uri)).toMatchObject({
    exports: [{ 'export-name': 'disk', 'export-size': sizeBytes }],
  });

  await run('nbdcopy', '--connections=4', uri, directory.file('copied'));
  expect((await readFile(directory.file('copied'))).equals(content)).toBe(true);
  await run('qemu-img', 'convert', '-O', 'raw', uri, directory.file('converted'));
  expect((await readFile(directory.file('converted'))).equals(content)).toBe(true);
  await run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', expected, uri);

  const map = (await nbdinfo('--map', uri)) as { offset: number; length: number; type: number }[];
  let at = 0;
  for (const { offset, length, type } of map) {
    expect(offset).toBe(at);
    at += length;
    // Bit 1 says that it reads as zeros.
    const zeros = content.subarray(offset, at).every((byte) => byte === 0);
    expect(zeros || (type & 2) === 0, `${length} bytes at ${offset} are not zeros`).toBe(true);
  }
  expect(at).toBe(sizeBytes);
  const qemuMap = JSON.parse(await run('qemu-img', 'map', '-f', 'raw', '--output=json', uri)) as {
    zero: boolean;
  }[];
  // Something was found to be a hole, else the map would be true of any device.
  expect(qemuMap.some(({ zero }) => zero)).toBe(true);
}

describe.each(Object.entries(writable))('%s', (_, open) => {
  needs(...tools)('is written, read, trimmed and zeroed by programs of others', async () => {
    await using directory = temporaryDirectory();
    await using subject = await open(directory);
    await using served = await serve([{ name: 'disk', device: subject.device }]);
    const uri = served.server.uriOf('disk');
    const content = makeContent();
    await writeFile(directory.file('content'), content);

    await run('nbdcopy', '--connections=4', directory.file('content'), uri);
    expect(Buffer.from(await readBytes(subject.device)).equals(content)).toBe(true);
    await expectReadable(uri, content, directory);

    const script = [
      'write -P 7 -f 1048576 65536', // With FUA.
      'write -z -u 2097152 1048576', // May make a hole.
      'write -z 10485760 65536',
      'discard 4194304 1048576',
      'flush',
      'read -P 7 1048576 65536',
      'read -P 0 2097152 1048576',
      'read -P 0 10485760 65536',
    ];
    const said = await run('qemu-io', '-f', 'raw', ...script.flatMap((line) => ['-c', line]), uri);
    expect(said).not.toContain('failed');
    content.fill(7, MiB, MiB + 65_536);
    content.fill(0, 2 * MiB, 3 * MiB);
    content.fill(0, 10 * MiB, 10 * MiB + 65_536);
    const now = Buffer.from(await readBytes(subject.device));
    // What was discarded may hold anything.
    content.copy(now, 4 * MiB, 4 * MiB, 5 * MiB);
    expect(now.equals(content)).toBe(true);

    const job = { size: '8m', bs: '4k', iodepth: 32, verify: 'crc32c', do_verify: 1, verify_fatal: 1 };
    expect(await runFio(uri, { rw: 'randwrite', ...job })).toEqual({ reads: 2048, writes: 2048, trims: 0 });
    const before = Buffer.from(await readBytes(subject.device));
    const region = { offset: '1m', size: '4m', bs: '32k' };
    expect(await runFio(uri, { rw: 'randtrim', ...region, iodepth: 8 })).toMatchObject({ trims: 128 });
    const after = Buffer.from(await readBytes(subject.device));
    // All that was trimmed may hold anything, and nothing else.
    before.copy(after, MiB, MiB, 5 * MiB);
    expect(differenceAt(after, before)).toBeUndefined();
    const varied = await runFio(uri, { rw: 'randwrite', ...job, bsrange: '512-128k', fsync: 16 });
    expect(varied.reads).toBeGreaterThan(0);
    expect(varied.reads).toBe(varied.writes);
  });
});

describe.each(Object.entries(readOnly))('%s', (_, open) => {
  needs(...tools)('is read by programs of others, and written by none', async () => {
    await using directory = temporaryDirectory();
    const content = makeContent();
    await using subject = await open(directory, content);
    await using served = await serve([{ name: 'disk', device: subject.device }]);
    const uri = served.server.uriOf('disk');
    await expectReadable(uri, content, directory);
    expect(await nbdinfo(uri)).toMatchObject({ exports: [{ is_read_only: true }] });
    const { exitCode } = await runProcess('qemu-io', ['-f', 'raw', '-c', 'write 0 512', uri]);
    expect(exitCode).not.toBe(0);
    expect(await runFio(uri, { rw: 'randread', size: '16m', bs: '4k', iodepth: 32 })).toMatchObject({
      reads: 4096,
    });
    expect(Buffer.from(await readBytes(subject.device)).equals(content)).toBe(true);
  });
});
