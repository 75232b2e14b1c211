import { readdir, writeFile } from 'node:fs/promises';
import { afterAll, describe, expect, test } from 'vitest';
import type { BlockDevice } from '#src/devices/block-device';
import { FileDevice } from '#src/devices/file';
import { MemoryDevice } from '#src/devices/memory';
import { openDevice } from '#src/devices/open';
import { Random } from '#src/runtime/random';
import { KiB, MiB } from '#src/runtime/sizes';
import type { CutRequest, CutSource } from '#src/servers/control';
import type { PreImageLimits } from '#src/servers/pre-image-limits';
import { StorageServer } from '#src/servers/server';
import { randomBytes } from '../support/bytes.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/directory.js';
import { GatedDevice } from '../support/gated-device.js';
import { isSettled, turns } from '../support/manual-clock.js';
import { testSeed } from '../support/seed.js';

const BLOCK = 4096;

function start(device: BlockDevice, preImages: PreImageLimits = {}): StorageServer {
  return new StorageServer({ id: 'a', device, preImages });
}

/** A device whose reads wait at a gate. */
class SlowReader extends MemoryDevice implements BlockDevice {
  #gate: Promise<void> | undefined;
  #open: () => void = () => {};

  shut(): void {
    this.#gate = new Promise((open) => (this.#open = open));
  }

  open(): void {
    this.#open();
  }

  override async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    await this.#gate;
    await super.read(offsetBytes, into);
  }
}

let epochs = 0;

async function snapshot(server: StorageServer, changes: Partial<CutRequest> = {}): Promise<CutSource> {
  const ticket = { epoch: ++epochs, coordinator: 'test' };
  const { source } = await server.cut({
    ...ticket,
    leaseMs: 10_000,
    fixedBy: 'snapshot',
    blockSizeBytes: BLOCK,
    ...changes,
  });
  expect((await server.release(ticket)).heldWithoutBreak).toBe(true);
  return source;
}

async function contents(device: BlockDevice): Promise<Uint8Array> {
  const bytes = new Uint8Array(device.sizeBytes);
  await device.read(0, bytes);
  return bytes;
}

function filled(value: number, length: number): Uint8Array {
  return new Uint8Array(length).fill(value);
}

const directories: TemporaryDirectory[] = [];
afterAll(async () => {
  for (const directory of directories) await directory[Symbol.asyncDispose]();
});

/** What a snapshot can be of, one for each way to save what is overwritten. */
const kinds: readonly { name: string; open: (sizeBytes: number) => Promise<BlockDevice> }[] = [
  { name: 'memory', open: (sizeBytes) => Promise.resolve(new MemoryDevice(sizeBytes)) },
  {
    name: 'a file',
    open: async (sizeBytes) => {
      const directory = temporaryDirectory({ inMemory: true });
      directories.push(directory);
      return await FileDevice.open(directory.file('image'), { create: { sizeBytes } });
    },
  },
];

describe.each(kinds)('a snapshot of $name', ({ open }) => {
  test('keeps the contents of the cut while writes, trims and write-zeroes go on', async () => {
    const device = await open(10 * BLOCK + 100);
    await using server = start(device);
    await server.client.write(0, filled(7, device.sizeBytes));
    const before = await contents(device);
    await using source = await snapshot(server);
    await server.client.write(BLOCK - 10, filled(1, 20));
    await server.client.writeZeroes(3 * BLOCK, 2 * BLOCK);
    await server.client.trim(6 * BLOCK, BLOCK);
    await server.client.write(10 * BLOCK, filled(2, 100));
    expect(await contents(source.device)).toEqual(before);
    expect(await contents(server.client)).not.toEqual(before);
  });

  test('costs nothing for blocks that held zeros, and shows them as zeros', async () => {
    const device = await open(64 * BLOCK);
    await using server = start(device, { memoryBytes: 0, spillBytes: 0 });
    await using source = await snapshot(server);
    await server.client.write(0, filled(1, 8 * BLOCK));
    const seen = await contents(source.device);
    expect(seen.every((byte) => byte === 0)).toBe(true);
    await source.assertIntact();
  });

  test('counts as data what was trimmed after its pre-image was saved', async () => {
    await using server = start(await open(4 * MiB));
    await server.client.write(0, filled(7, 3 * MiB));
    await using source = await snapshot(server);
    await server.client.trim(MiB, MiB);
    expect(await source.device.allocation(0, 4 * MiB)).toEqual([
      { offsetBytes: 0, lengthBytes: 3 * MiB, kind: 'data' },
      { offsetBytes: 3 * MiB, lengthBytes: MiB, kind: 'zero' },
    ]);
  });

  test('several live at once keep each their own cut', async () => {
    await using server = start(await open(2 * BLOCK));
    await server.client.write(0, filled(1, 1));
    await using first = await snapshot(server);
    await server.client.write(0, filled(2, 1));
    await using second = await snapshot(server);
    await server.client.write(0, filled(3, 1));
    expect((await contents(first.device))[0]).toBe(1);
    expect((await contents(second.device))[0]).toBe(2);
    expect((await server.status()).snapshots).toBe(2);
    await first.close();
    expect((await server.status()).snapshots).toBe(1);
    expect((await contents(second.device))[0]).toBe(2);
  });

  test('spills pre-images to a file without a name, and reuses its space', async () => {
    await using directory = temporaryDirectory();
    const device = await open(16 * BLOCK);
    await using server = start(device, {
      memoryBytes: BLOCK,
      spillBytes: 2 * BLOCK,
      directory: directory.path,
    });
    for (let block = 0; block < 16; block++) await device.write(block * BLOCK, filled(block + 1, BLOCK));
    await using source = await snapshot(server);
    await server.client.write(0, filled(99, 3 * BLOCK));
    expect(await readdir(directory.path)).toEqual([]);
    const block = new Uint8Array(BLOCK);
    for (const index of [0, 1, 2, 3]) {
      await source.device.read(index * BLOCK, block);
      expect(block).toEqual(filled(index + 1, BLOCK));
    }
    // Copied blocks make room for others.
    source.markCopied(0, 3);
    await server.client.write(3 * BLOCK, filled(99, 3 * BLOCK));
    await source.device.read(5 * BLOCK, block);
    expect(block).toEqual(filled(6, BLOCK));
    await source.assertIntact();
  });

  test('is readable at every moment while a pre-image is on its way to the spill file', async () => {
    await using directory = temporaryDirectory();
    // More than is written to the file at once, so that some have to wait.
    const device = await open(6 * MiB);
    await using server = start(device, { memoryBytes: 0, directory: directory.path });
    await device.write(0, filled(1, 6 * MiB));
    await using source = await snapshot(server);
    let writing = true;
    const write = server.client.write(0, filled(2, 6 * MiB)).finally(() => (writing = false));
    while (writing) {
      const seen = contents(source.device);
      await new Promise((resolve) => setImmediate(resolve));
      expect(Buffer.compare(await seen, filled(1, 6 * MiB))).toBe(0);
    }
    await write;
  });

  test('finds thousands of pre-images again, wherever they are, and uses the space of those given up', async () => {
    await using directory = temporaryDirectory();
    const random = new Random(testSeed());
    const size = 8 * MiB;
    const device = await open(size);
    // The whole device has no room there at once.
    await using server = start(device, {
      memoryBytes: 16 * BLOCK,
      spillBytes: 6 * MiB,
      directory: directory.path,
    });
    const original = randomBytes(size, random.uint32());
    await device.write(0, original);
    await using source = await snapshot(server);
    const overwrite = async (from: number, to: number): Promise<void> => {
      const blocks = Array.from({ length: (to - from) / BLOCK }, (_, i) => from / BLOCK + i);
      for (let i = blocks.length - 1; i > 0; i--) {
        const j = random.below(i + 1);
        [blocks[i], blocks[j]] = [blocks[j] ?? 0, blocks[i] ?? 0];
      }
      const writes = blocks.map((block) =>
        server.client.write(block * BLOCK + random.below(4000), filled(7, 32)),
      );
      await Promise.all(writes);
    };
    const expectOriginal = async (from: number): Promise<void> => {
      const seen = new Uint8Array(size - from);
      await source.device.read(from, seen);
      expect(Buffer.compare(seen, original.subarray(from))).toBe(0);
    };
    await overwrite(0, 5 * MiB);
    await expectOriginal(0);
    source.markCopied(0, (4 * MiB) / BLOCK);
    await expectOriginal(4 * MiB);
    await overwrite(5 * MiB, size);
    await expectOriginal(4 * MiB);
    await source.assertIntact();
  });

  test('lets others have their turns while a long request is saved', async () => {
    const device = await open(256 * MiB);
    await using server = start(device);
    await using source = await snapshot(server);
    let isTrimming = true;
    const trimmed = server.client.trim(0, 256 * MiB).finally(() => (isTrimming = false));
    let others = 0;
    for (; isTrimming; others++) await new Promise((resolve) => setImmediate(resolve));
    await trimmed;
    await source.assertIntact();
    expect(others).toBeGreaterThan(32);
  });

  test('is done with the device before its server closes it, also when it is closed already', async () => {
    const device = await open(4 * MiB);
    const server = start(device);
    const source = await snapshot(server);
    const order: string[] = [];
    const close = device.close.bind(device);
    device.close = () => {
      order.push('device');
      return close();
    };
    const trim = expect(server.client.trim(0, 4 * MiB)).rejects.toMatchObject({ code: 'DEVICE_CLOSED' });
    const closing = source.close().then(() => order.push('snapshot'));
    const again = source.close().then(() => order.push('snapshot'));
    await Promise.all([closing, again, server.close()]);
    expect(order).toEqual(['snapshot', 'snapshot', 'device']);
    await trim;
  });

  test('breaks at its limit, and the write goes on', async () => {
    await using directory = temporaryDirectory();
    const device = await open(16 * BLOCK);
    await using server = start(device, { memoryBytes: BLOCK, spillBytes: BLOCK, directory: directory.path });
    await device.write(0, filled(1, 16 * BLOCK));
    await using source = await snapshot(server);
    await server.client.write(0, filled(2, 3 * BLOCK));
    expect((await contents(server.client)).subarray(0, 3 * BLOCK)).toEqual(filled(2, 3 * BLOCK));
    await expect(source.assertIntact()).rejects.toMatchObject({ code: 'SNAPSHOT_BROKEN', device: 'a' });
    await expect(source.device.read(8 * BLOCK, new Uint8Array(1))).rejects.toMatchObject({
      code: 'SNAPSHOT_BROKEN',
    });
  });

  test('breaks when the spill folder cannot be used, and the write goes on', async () => {
    const device = await open(4 * MiB);
    await using server = start(device, { memoryBytes: 0, directory: '/does/not/exist' });
    await device.write(0, filled(1, 4 * MiB));
    await using source = await snapshot(server);
    await server.client.write(0, filled(2, 4 * MiB));
    expect(Buffer.compare(await contents(server.client), filled(2, 4 * MiB))).toBe(0);
    await expect(source.assertIntact()).rejects.toMatchObject({ code: 'SNAPSHOT_BROKEN' });
  });

  test('model: whatever clients do, every live snapshot shows its own cut', async () => {
    const random = new Random(testSeed());
    for (let round = 0; round < 30; round++) {
      const sizeBytes = 1 + random.below(20 * BLOCK);
      const model = new Uint8Array(sizeBytes);
      await using server = start(await open(sizeBytes), { memoryBytes: random.below(8) * BLOCK });
      const live: { source: CutSource; expected: Uint8Array }[] = [];
      for (let step = 0; step < 60; step++) {
        if (random.chance(0.08)) live.push({ source: await snapshot(server), expected: model.slice() });
        // A few requests side by side, on ranges that do not overlap, so that the model knows the outcome.
        const writes: Promise<void>[] = [];
        let from = random.below(sizeBytes);
        while (from < sizeBytes && writes.length < 4) {
          const to = Math.min(sizeBytes, from + 1 + random.below(3 * BLOCK));
          const bytes = filled(random.below(256), to - from);
          if (random.chance(0.2)) bytes.fill(0);
          model.set(bytes, from);
          const zeroes = bytes[0] === 0;
          writes.push(zeroes ? server.client.writeZeroes(from, to - from) : server.client.write(from, bytes));
          from = to + random.below(BLOCK);
        }
        await Promise.all(writes);
        for (const { source, expected } of live) {
          const offset = random.below(sizeBytes);
          const into = new Uint8Array(Math.min(sizeBytes - offset, 1 + random.below(2 * BLOCK)));
          await source.device.read(offset, into);
          expect(Buffer.compare(into, expected.subarray(offset, offset + into.length))).toBe(0);
        }
      }
      for (const { source, expected } of live) {
        expect(Buffer.compare(await contents(source.device), expected)).toBe(0);
        await source.close();
      }
      expect(Buffer.compare(await contents(server.client), model)).toBe(0);
    }
  });
});

describe('a snapshot', () => {
  test('is read-only and has no way behind it', async () => {
    await using server = start(new MemoryDevice(BLOCK));
    await using source = await snapshot(server);
    await expect(source.device.write(0, filled(1, 1))).rejects.toMatchObject({ code: 'READ_ONLY' });
    expect(source.device.nativeSource).toBeUndefined();
    expect(source.native).toBeUndefined();
  });

  test('saves the old content before the device changes, once per block', async () => {
    const device = new GatedDevice(8 * BLOCK);
    await using server = start(device);
    await server.client.write(0, filled(1, 2 * BLOCK));
    await using source = await snapshot(server);
    device.log.length = 0;
    await Promise.all([
      server.client.write(0, filled(2, 512)),
      server.client.write(512, filled(3, 512)),
      server.client.write(1024, filled(4, 512)),
    ]);
    await server.client.write(0, filled(5, 512));
    expect(device.log[0]).toBe(`read 0+${BLOCK}`);
    expect(device.log.filter((entry) => entry.startsWith('read'))).toHaveLength(1);
    expect((await contents(source.device))[0]).toBe(1);
  });

  test('does not save a block that is already copied, and gives up its pre-image', async () => {
    const device = new GatedDevice(4 * BLOCK);
    await using server = start(device);
    await server.client.write(0, filled(1, 4 * BLOCK));
    await using source = await snapshot(server);
    await server.client.write(0, filled(2, BLOCK));
    source.markCopied(0, 2);
    device.log.length = 0;
    await server.client.write(BLOCK, filled(2, BLOCK));
    expect(device.log).toEqual([`write ${BLOCK}+${BLOCK}`]);
    const byte = new Uint8Array(1);
    await expect(source.device.read(0, byte)).rejects.toMatchObject({ code: 'SNAPSHOT_BROKEN' });
    await expect(source.device.read(BLOCK, byte)).rejects.toMatchObject({ code: 'SNAPSHOT_BROKEN' });
    await source.device.read(2 * BLOCK, byte);
    expect(byte[0]).toBe(1);
  });

  test('on a file, in the same turn, saves just what a write changes', async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('a.img');
    await writeFile(path, filled(1, 64 * BLOCK));
    await using server = start(await openDevice(path));
    await using source = await snapshot(server, { blockSizeBytes: 16 * BLOCK });
    for (let block = 0; block < 64; block += 3) await server.client.write(block * BLOCK + 7, filled(2, 1));
    await server.client.write(20 * BLOCK, filled(3, 30 * BLOCK));
    expect(Buffer.compare(await contents(source.device), filled(1, 64 * BLOCK))).toBe(0);
    const before = await contents(server.client);
    expect([before[7], before[8], before[20 * BLOCK]]).toEqual([2, 1, 3]);
    // What is copied is saved no more, and what is not still is.
    source.markCopied(0, 1);
    await server.client.write(0, filled(4, 32 * BLOCK));
    const rest = new Uint8Array(48 * BLOCK);
    await source.device.read(16 * BLOCK, rest);
    expect(Buffer.compare(rest, filled(1, 48 * BLOCK))).toBe(0);
    await source.assertIntact();
  });

  test.each([512, 2048, 6000])(
    'is refused in blocks of %i bytes before any barrier goes up',
    async (bytes) => {
      await using server = start(new MemoryDevice(MiB));
      await expect(snapshot(server, { blockSizeBytes: bytes })).rejects.toMatchObject({
        code: 'BAD_ARGUMENT',
      });
      expect(await server.status()).toMatchObject({ barrierUp: false, epoch: 0 });
    },
  );

  test('is of any size: blocks are counted in more than 32 bits', async () => {
    await using directory = temporaryDirectory({ inMemory: true });
    const sizeBytes = 2 ** 32 * BLOCK + 64 * KiB;
    await using server = start(await FileDevice.open(directory.file('a.img'), { create: { sizeBytes } }));
    await server.client.write(0, filled(1, BLOCK));
    await using source = await snapshot(server);
    await server.client.write(0, filled(2, BLOCK));
    // In 32 bits it would be the first one.
    source.markCopied(2 ** 32, 1);
    const byte = new Uint8Array(1);
    await source.device.read(0, byte);
    expect(byte[0]).toBe(1);
  });

  test.each([-1, 1.5, NaN, Infinity, 2 ** 53])('has no limit of %d bytes', (bytes) => {
    for (const limits of [{ memoryBytes: bytes }, { spillBytes: bytes }]) {
      expect(() => start(new MemoryDevice(BLOCK), limits)).toThrow(/is not a whole number of bytes/);
    }
  });

  test('on a file leaves threads to others while long requests are saved', async () => {
    await using directory = temporaryDirectory({ inMemory: true });
    const open = (name: string, sizeBytes: number): Promise<BlockDevice> =>
      FileDevice.open(directory.file(name), { create: { sizeBytes } });
    await using server = start(await open('a.img', 1024 * MiB));
    await using other = await open('other.img', 1);
    await using source = await snapshot(server);
    // More than there are threads in libuv's pool.
    const trims = Array.from({ length: 8 }, (_, i) => server.client.trim(i * 128 * MiB, 128 * MiB));
    let isTrimming = true;
    const first = Promise.race(trims).finally(() => (isTrimming = false));
    let others = 0;
    for (; isTrimming; others++) await other.read(0, new Uint8Array(1));
    await Promise.all([first, ...trims]);
    await source.assertIntact();
    expect(others).toBeGreaterThan(8);
  });

  test('breaks when the old content cannot be read, and the write goes on', async () => {
    const device = new GatedDevice(4 * BLOCK);
    await using server = start(device);
    await device.write(0, filled(1, BLOCK));
    await using source = await snapshot(server);
    device.read = () => Promise.reject(new Error('bad sector'));
    await server.client.write(0, filled(2, 1));
    await expect(source.assertIntact()).rejects.toThrow(/bad sector/);
  });

  test('breaks with the power', async () => {
    await using server = start(new MemoryDevice(BLOCK));
    await using source = await snapshot(server);
    await server.powerCut({ seed: 1 });
    await expect(source.assertIntact()).rejects.toMatchObject({ code: 'SNAPSHOT_BROKEN' });
  });

  test('that is closed while a write waits for its pre-image does not strand the write', async () => {
    const device = new GatedDevice(4 * BLOCK);
    await using server = start(device);
    await device.write(0, filled(1, BLOCK));
    const source = await snapshot(server);
    let read = (): void => {};
    device.read = () => new Promise((resolve) => (read = resolve));
    const write = server.client.write(0, filled(2, 1));
    await turns();
    const closing = source.close();
    read();
    await Promise.all([write, closing]);
    expect(await server.status()).toMatchObject({ inFlight: 0, snapshots: 0 });
  });
});

test('a write is answered only when its pre-image is safe and it is applied', async () => {
  const device = new GatedDevice(4 * BLOCK);
  await using server = start(device);
  await device.write(0, filled(1, BLOCK));
  await using _source = await snapshot(server);
  device.shut();
  const write = server.client.write(0, filled(2, 1));
  expect(await isSettled(write)).toBe(false);
  device.open();
  await write;
});

describe('change tracking', () => {
  test('a later cut fixes just the blocks changed since, from an admitted write on', async () => {
    await using server = start(new MemoryDevice(8 * BLOCK));
    await server.client.write(0, filled(1, 8 * BLOCK));
    const first = await snapshot(server, { trackChanges: true });
    const trackedEpoch = epochs;
    await first.close();
    await server.client.write(BLOCK + 5, filled(2, 10));
    await server.client.trim(3 * BLOCK, 10);
    await server.client.writeZeroes(5 * BLOCK - 1, 2);
    await using source = await snapshot(server, { changedSinceEpoch: trackedEpoch });
    const changed = [...Array(8).keys()].filter((block) => ((source.selected?.[0] ?? 0) >> block) & 1);
    expect(changed).toEqual([1, 3, 4, 5]);
    // A block that is not wanted needs no pre-image.
    const preserved = new Uint8Array(1);
    await server.client.write(BLOCK, filled(9, BLOCK));
    await source.device.read(BLOCK + 5, preserved);
    expect(preserved[0]).toBe(2);
    await server.client.write(7 * BLOCK, filled(9, BLOCK));
    await expect(source.device.read(7 * BLOCK, preserved)).rejects.toMatchObject({ code: 'SNAPSHOT_BROKEN' });
  });

  test('counts a write that waits for its pre-image when the changes are collected', async () => {
    const device = new SlowReader(2 * BLOCK);
    await using server = start(device);
    await (await snapshot(server, { trackChanges: true })).close();
    const trackedEpoch = epochs;
    // Another snapshot keeps the write busy while the cut waits for it.
    await using _other = await snapshot(server);
    device.shut();
    const write = server.client.write(BLOCK, filled(1, 10));
    const cut = snapshot(server, { changedSinceEpoch: trackedEpoch });
    await turns();
    device.open();
    await using source = await cut;
    expect(source.selected?.[0]).toBe(0b10);
    await write;
  });

  test('counts a write that failed half way', async () => {
    const device = new (class extends MemoryDevice {
      override async write(offsetBytes: number, bytes: Uint8Array): Promise<void> {
        await super.write(offsetBytes, bytes.subarray(0, 512));
        throw new Error('torn');
      }
    })(8 * BLOCK);
    await using server = start(device);
    await (await snapshot(server, { trackChanges: true })).close();
    const trackedEpoch = epochs;
    await expect(server.client.write(2 * BLOCK, filled(1, 1024))).rejects.toThrow('torn');
    await using source = await snapshot(server, { changedSinceEpoch: trackedEpoch });
    expect(source.selected?.[0]).toBe(1 << 2);
  });

  test('is gone after it was collected, stopped, or the power was cut; then the cut is refused and comes down', async () => {
    await using server = start(new MemoryDevice(8 * BLOCK));
    const lose: ((epoch: number) => Promise<unknown>)[] = [
      (epoch) => server.stopTracking(epoch),
      () => server.powerCut({ seed: 1 }),
      async (epoch) => (await snapshot(server, { changedSinceEpoch: epoch })).close(),
    ];
    for (const action of lose) {
      await (await snapshot(server, { trackChanges: true })).close();
      const trackedEpoch = epochs;
      await action(trackedEpoch);
      await expect(snapshot(server, { changedSinceEpoch: trackedEpoch })).rejects.toMatchObject({
        code: 'CUT_VOID',
      });
      await server.release({ epoch: epochs, coordinator: 'test' });
    }
  });
});
