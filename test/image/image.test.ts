import { describe, expect, test } from 'vitest';
import { DeviceStore } from '#src/backup/image/device-store';
import { BackupImage } from '#src/backup/image/image';
import type { BlockMapWriter } from '#src/backup/image/image';
import { CopyPool } from '#src/backup/pool';
import { verify } from '#src/backup/verify';
import { BlockState } from '#src/core/core';
import { loadCore } from '#src/core/load';
import { MemoryDevice } from '#src/devices/memory';
import { CofferdamError } from '#src/runtime/errors';
import { Random } from '#src/runtime/random';
import { KiB, MiB } from '#src/runtime/sizes';
import { randomBytes } from '../support/bytes.js';
import { testSeed } from '../support/seed.js';
import {
  changed,
  differs,
  randomDevice,
  recordOf,
  restoreAll,
  writeGeneration,
  type DeviceContent,
} from './support/generations.js';
import { MemoryStore } from './support/memory-store.js';
import { Stranger } from './stranger.js';

const core = await loadCore();
const SLOTS = [0, 64 * KiB] as const;

function someDevices(seed = 1): DeviceContent[] {
  const random = new Random(seed);
  return [
    randomDevice(random, 'a', 600 * KiB + 12, 4 * KiB, 0.2),
    randomDevice(random, 'b', 90_000, 16 * KiB, 0.7),
  ];
}

/** An image with this many full generations, and what they hold. */
async function imageOf(generations: number): Promise<{ store: MemoryStore; devices: DeviceContent[][] }> {
  const store = new MemoryStore();
  const image = await BackupImage.initialise(store, core);
  const devices = Array.from({ length: generations }, (_, i) => someDevices(i));
  for (const each of devices) await writeGeneration(image, each);
  return { store, devices };
}

const reopen = (store: MemoryStore): Promise<BackupImage> =>
  BackupImage.open(new MemoryStore(store.bytes), core);

async function damage(store: MemoryStore, offset: number): Promise<void> {
  await store.write(offset, Uint8Array.of((store.bytes[offset] ?? 0) ^ 1));
}

describe('an image', () => {
  test('that is new has no generations, and says so', async () => {
    const store = new MemoryStore();
    const made = await BackupImage.initialise(store, core, { uuid: '01234567-89ab-cdef-0123-456789abcdef' });
    for (const image of [made, await reopen(store)]) {
      expect(image.uuid).toBe('01234567-89ab-cdef-0123-456789abcdef');
      expect(image.generations).toEqual([]);
      expect(image.warnings).toEqual([]);
      await expect(image.record('latest')).rejects.toMatchObject({
        code: 'UNKNOWN_GENERATION',
        message: expect.stringContaining('no generation yet') as string,
      });
    }
  });

  test('gives back the records that were committed', async () => {
    const { store, devices } = await imageOf(2);
    const image = await reopen(store);
    const record = await image.record(2);
    expect(await image.record('latest')).toEqual(record);
    const roots = record.devices.map(({ root }) => root);
    expect(record).toEqual({
      generation: 2,
      ...recordOf(
        (devices[1] ?? []).map(({ id, blockSizeBytes, bytes }, i) => {
          return { id, blockSizeBytes, sizeBytes: bytes.length, root: roots[i] ?? null };
        }),
        'xxh64',
      ),
    });
    expect(image.generations).toMatchObject([
      { generation: 1 },
      {
        generation: 2,
        finishedAt: record.finishedAt,
        strategy: 'snapshot',
        consistency: 'group',
        deviceCount: 2,
        sizeBytes: 600 * KiB + 12 + 90_000,
        storedBytes: 1,
      },
    ]);
    await expect(image.record(3)).rejects.toMatchObject({
      code: 'UNKNOWN_GENERATION',
      message: expect.stringContaining('it has 1, 2') as string,
    });
    expect(() => image.blockMap(record, 'c')).toThrow(
      expect.objectContaining({ code: 'UNKNOWN_DEVICE' }) as Error,
    );
    expect(() => image.blockMap(record, 'c')).toThrow('a, b');
  });

  test('holds devices of no bytes and of zeros only', async () => {
    const store = new MemoryStore();
    const image = await BackupImage.initialise(store, core);
    const devices = [0, 1, 4096, 3 * MiB + 1].map((size, i) => {
      return { id: `d${i}`, blockSizeBytes: 4096, bytes: new Uint8Array(size) };
    });
    await writeGeneration(image, devices);
    const reopened = await reopen(store);
    expect((await reopened.record(1)).devices.map(({ root }) => root)).toEqual([null, null, null, null]);
    expect(differs((await restoreAll(reopened)).get(1), devices)).toBeUndefined();
  });
});

describe('what is refused', () => {
  test.each([
    ['nothing', new Uint8Array(0)],
    ['zeros', new Uint8Array(MiB)],
    ['a few bytes', randomBytes(15, 1)],
    ['random bytes', randomBytes(256 * KiB, 1)],
    ['text', new TextEncoder().encode('cofferdam '.repeat(50_000))],
  ])('%s is not an image', async (_what, bytes) => {
    await expect(BackupImage.open(new MemoryStore(bytes), core)).rejects.toMatchObject({
      code: 'NOT_AN_IMAGE',
    });
  });

  test('an image that was cut off anywhere', async () => {
    const { store } = await imageOf(2);
    const size = store.bytes.length;
    for (const length of [16, 100, 512, 5000, 65536, 66000, 131071, 131072, 200_000, size - 4096, size - 1]) {
      const cut = new MemoryStore(store.bytes.subarray(0, length));
      await expect(BackupImage.open(cut, core), `${length} of ${size}`).rejects.toMatchObject({
        code: 'IMAGE_TRUNCATED',
      });
    }
    // What comes after the end is nobody's business.
    expect(
      (await BackupImage.open(new MemoryStore(Buffer.concat([store.bytes, randomBytes(999, 1)])), core))
        .warnings,
    ).toEqual([]);
  });

  test('an image that asks for a newer reader, never reading an older state instead', async () => {
    const { store } = await imageOf(2);
    for (const slot of [0, 1] as const) {
      const newer = new MemoryStore(store.bytes);
      const bytes = newer.bytes.subarray(SLOTS[slot], SLOTS[slot] + 4096);
      const view = new DataView(bytes.buffer, bytes.byteOffset);
      view.setUint32(16, 8, true);
      view.setUint32(20, 7, true);
      bytes.set(core.hash('blake3', bytes.subarray(0, 480)), 480);
      const isNewest = slot === 0; // Sequence number 3.
      const opening = BackupImage.open(newer, core);
      if (isNewest) {
        await expect(opening).rejects.toMatchObject({
          code: 'IMAGE_VERSION',
          message: expect.stringMatching(/version 8 .* version 7 .* version 1/) as string,
        });
      } else {
        expect((await opening).generations).toHaveLength(2);
      }
    }
  });

  test('slots of two different images', async () => {
    const [one, other] = [await imageOf(2), await imageOf(2)];
    await one.store.write(SLOTS[1], other.store.bytes.slice(SLOTS[1], SLOTS[1] + 4096));
    await expect(BackupImage.open(one.store, core)).rejects.toMatchObject({ code: 'IMAGE_CORRUPT' });
  });

  test('both slots damaged', async () => {
    const { store } = await imageOf(1);
    for (const slot of SLOTS) await damage(store, slot + 50);
    await expect(BackupImage.open(store, core)).rejects.toMatchObject({ code: 'IMAGE_CORRUPT' });
  });
});

describe('damage at the head', () => {
  // Three generations: sequence number 4 is in slot 1.
  const NEWEST = SLOTS[1];
  const OLDER = SLOTS[0];

  test.each([
    ['of the newest superblock loses the last generation, with a warning', NEWEST, 2],
    ['of the older superblock loses nothing, and is warned of', OLDER, 3],
  ])('%s', async (_what, slot, left) => {
    for (const harm of ['flip', 'blank'] as const) {
      const { store, devices } = await imageOf(3);
      if (harm === 'flip') await damage(store, slot + 40);
      else await store.write(slot, new Uint8Array(4096));
      const image = await BackupImage.open(store, core);
      expect(image.warnings).toEqual([expect.stringContaining('the newest generation may be missing')]);
      expect(image.generations).toHaveLength(left);
      await using pool = await CopyPool.start(core, 1);
      expect(await verify(image, { pool })).toMatchObject({
        ok: false,
        problems: [expect.stringContaining('slot')],
      });

      // A lost generation may be needed by somebody yet: the next one must leave its bytes alone.
      const before = store.bytes.slice();
      await writeGeneration(image, devices[0] ?? []);
      const after = store.bytes;
      expect(Buffer.compare(after.subarray(128 * KiB, before.length), before.subarray(128 * KiB))).toBe(0);
      const healed = await BackupImage.open(store, core);
      expect(healed.warnings).toEqual([]);
      expect(healed.generations).toHaveLength(left + 1);
    }
  });

  test('on a device of fixed size forbids to write, for nobody knows what is free', async () => {
    const device = new MemoryDevice(16 * MiB);
    const image = await BackupImage.initialise(new DeviceStore(device), core);
    for (let i = 0; i < 3; i++) await writeGeneration(image, someDevices(i));
    await device.write(NEWEST + 40, Uint8Array.of(0xff));
    const reopened = await BackupImage.open(new DeviceStore(device), core);
    expect((await restoreAll(reopened)).size).toBe(2);
    expect(() => reopened.beginGeneration()).toThrow(
      expect.objectContaining({ code: 'IMAGE_CORRUPT' }) as Error,
    );
  });

  test('of the newest catalog falls back to the older one, with a warning', async () => {
    const { store, devices } = await imageOf(3);
    const view = new DataView(store.bytes.buffer);
    await damage(store, Number(view.getBigUint64(NEWEST + 56, true)) + 10);
    const image = await BackupImage.open(store, core);
    expect(image.warnings).toEqual([expect.stringContaining('fell back')]);
    expect(differs((await restoreAll(image)).get(2), devices[1])).toBeUndefined();
    expect(image.generations).toHaveLength(2);

    // And the older one's alone is a finding of verify.
    const other = await imageOf(3);
    await damage(other.store, Number(view.getBigUint64(OLDER + 56, true)) + 10);
    const sound = await BackupImage.open(other.store, core);
    expect(sound.warnings).toEqual([]);
    await using pool = await CopyPool.start(core, 1);
    expect(await verify(sound, { pool })).toMatchObject({
      ok: false,
      problems: [expect.stringContaining('catalog')],
    });
  });
});

describe('writing', () => {
  test('one generation at a time, and the image can be used again after one was given up', async () => {
    const { store, devices } = await imageOf(1);
    const size = store.bytes.length;
    const image = await BackupImage.open(store, core);
    const writer = image.beginGeneration();
    expect(() => image.beginGeneration()).toThrow(expect.objectContaining({ code: 'DEVICE_BUSY' }) as Error);
    await writer.appendData(randomBytes(100_000, 1));
    expect(store.bytes.length).toBeGreaterThan(size);
    await writer.abandon();
    await writer.abandon();
    expect(store.bytes.length).toBe(size);
    expect(await writeGeneration(image, devices[0] ?? [])).toBe(2);
  });

  test('an incremental writes what changed and the path to it, and shares the rest', async () => {
    const random = new Random(testSeed());
    const store = new MemoryStore();
    const image = await BackupImage.initialise(store, core);
    // Three levels: 65,537 blocks and a few more.
    const before = [randomDevice(random, 'a', 65_700 * 4 * KiB, 4 * KiB, 0.002)];
    await writeGeneration(image, before);
    const after = before.map((device) => ({ ...device, bytes: device.bytes.slice() }));
    after[0]?.bytes.set(randomBytes(4096, 1), 1000 * 4096);
    await writeGeneration(image, after, { base: { record: await image.record(1), devices: before } });

    const reached = async (generation: number): Promise<Map<number, string>> => {
      const stranger = await Stranger.open(store.bytes);
      expect(
        differs(
          [{ ...firstOf(before), bytes: await stranger.device(generation, 'a') }],
          generation === 1 ? before : after,
        ),
      ).toBeUndefined();
      return new Map(stranger.reached.map(({ what, offset }) => [offset, what]));
    };
    const [first, second] = [await reached(1), await reached(2)];
    const added = [...second].filter(([offset]) => !first.has(offset)).map(([, what]) => what);
    expect(added.filter((what) => what === 'node')).toHaveLength(3);
    expect(added.filter((what) => what === 'block')).toHaveLength(1);

    // A generation in which nothing changed has the same root.
    await writeGeneration(image, after, { base: { record: await image.record(2), devices: after } });
    expect((await image.record(3)).devices).toEqual((await image.record(2)).devices);
  });

  test('a leaf that was looked at and had not changed is shared', async () => {
    const { store, devices } = await imageOf(1);
    const image = await BackupImage.open(store, core);
    const [device] = (await image.record(1)).devices;
    if (!device) throw new Error('there is no device');
    const writer = image.beginGeneration();
    const { id, sizeBytes, blockSizeBytes } = device;
    const map = writer.blockMapWriter(
      { deviceId: id, sizeBytes, blockSizeBytes, algorithm: 'xxh64' },
      device.root,
    );
    await map.put(0, leafOf(Math.ceil(sizeBytes / blockSizeBytes), BlockState.Skipped));
    const root = await map.seal();
    expect(root).toEqual(device.root);
    await writer.commit(recordOf([{ ...device, root }], 'xxh64', 1));
    expect(differs((await restoreAll(await reopen(store))).get(2), devices[0]?.slice(0, 1))).toBeUndefined();
  });

  test('takes no more space than it needs, in whole pages', async () => {
    const { store } = await imageOf(1);
    const image = await BackupImage.open(store, core);
    const before = store.bytes.length;
    await writeGeneration(image, [{ id: 'a', blockSizeBytes: 4096, bytes: randomBytes(8192, 1) }]);
    // Data, one node of 6160 bytes, the record, the catalog.
    expect(store.bytes.length - before).toBe(8192 + 8192 + 4096 + 4096);
  });

  test('a random history of incrementals, each of any earlier generation', async () => {
    const random = new Random(testSeed());
    const store = new MemoryStore();
    const image = await BackupImage.initialise(store, core);
    const history = [someDevices(random.uint32())];
    await writeGeneration(image, history[0] ?? []);
    for (let i = 0; i < 12; i++) {
      const parent = random.below(history.length);
      const devices = (history[parent] ?? []).map((device) => changed(random, device, random.below(20)));
      const base = { record: await image.record(parent + 1), devices: history[parent] ?? [] };
      history.push(devices);
      await writeGeneration(image, devices, random.chance(0.7) ? { base } : {});
    }
    const restored = await restoreAll(await reopen(store));
    for (const [i, devices] of history.entries())
      expect(differs(restored.get(i + 1), devices)).toBeUndefined();
  });

  test('a second pass over a map that was sealed in the same generation', async () => {
    const store = new MemoryStore();
    const image = await BackupImage.initialise(store, core);
    const writer = image.beginGeneration();
    const shape = { deviceId: 'a', sizeBytes: 600 * 4096, blockSizeBytes: 4096, algorithm: 'xxh64' } as const;
    const passes = [randomBytes(4096, 1), randomBytes(4096, 2)];
    const first = writer.blockMapWriter(shape);
    const offset = await writer.appendData(firstOf(passes));
    for (const [leaf, count] of [256, 256, 88].entries())
      await first.put(leaf, leafOf(count, BlockState.Stored, offset, passes[0]));
    const sealed = await first.seal();
    const second = writer.blockMapWriter(shape, sealed);
    const changedLeaf = leafOf(256, BlockState.Skipped);
    changedLeaf.states[7] = BlockState.Stored;
    changedLeaf.offsets[7] = await writer.appendData(passes[1] ?? new Uint8Array());
    changedLeaf.hashes.set(core.hash('xxh64', passes[1] ?? new Uint8Array()), 7 * 8);
    changedLeaf.states[8] = BlockState.Zero;
    await second.put(1, changedLeaf);
    const { deviceId: id, sizeBytes, blockSizeBytes } = shape;
    await writer.commit(recordOf([{ id, sizeBytes, blockSizeBytes, root: await second.seal() }], 'xxh64'));

    const expected = new Uint8Array(sizeBytes);
    for (let block = 0; block < 600; block++) expected.set(firstOf(passes), block * 4096);
    expected.set(passes[1] ?? [], (256 + 7) * 4096);
    expected.fill(0, (256 + 8) * 4096, (256 + 9) * 4096);
    const restored = await restoreAll(await reopen(store));
    expect(differs(restored.get(1), [{ id, blockSizeBytes, bytes: expected }])).toBeUndefined();
  });

  test('a block that was forgotten is never taken for zeros', async () => {
    const image = await BackupImage.initialise(new MemoryStore(), core);
    const writer = image.beginGeneration();
    const shape = { deviceId: 'a', sizeBytes: 300 * 4096, blockSizeBytes: 4096, algorithm: 'xxh64' } as const;
    const begin = (): BlockMapWriter => writer.blockMapWriter(shape);

    await expect(begin().seal()).rejects.toThrow('invariant');
    const one = begin();
    await one.put(1, leafOf(44, BlockState.Zero));
    await expect(one.seal()).rejects.toThrow('invariant');
    await expect(one.put(1, leafOf(44, BlockState.Zero))).rejects.toThrow('invariant');
    const skipping = leafOf(256, BlockState.Zero);
    skipping.states[9] = BlockState.Skipped;
    await expect(begin().put(0, skipping)).rejects.toThrow('invariant');
    await expect(begin().put(0, leafOf(256, BlockState.Preserved))).rejects.toThrow('invariant');
    await expect(begin().put(0, leafOf(255, BlockState.Zero))).rejects.toThrow('invariant');
    // And block data that is not in space of this generation is no block data.
    await expect(begin().put(0, leafOf(256, BlockState.Stored, 0))).rejects.toThrow('invariant');
    await writer.abandon();
  });

  test('a failure of any write or sync commits nothing, or nobody knows and the image says so', async () => {
    class Failing extends MemoryStore {
      failAt = Infinity;
      count = 0;
      override async write(offset: number, bytes: Uint8Array): Promise<void> {
        this.#maybeFail();
        await super.write(offset, bytes);
      }
      override async sync(): Promise<void> {
        this.#maybeFail();
        await super.sync();
      }
      #maybeFail(): void {
        if (this.count++ === this.failAt)
          throw new CofferdamError('TARGET_WRITE_FAILED', 'the disk is broken');
      }
    }
    const { store, devices } = await imageOf(1);
    const next = someDevices(77);
    let known = 0;
    let unknown = 0;
    for (let failAt = 0; ; failAt++) {
      const failing = new Failing(store.bytes);
      const image = await BackupImage.open(failing, core);
      failing.failAt = failAt;
      const outcome = await writeGeneration(image, next).catch((error: unknown) => error);
      if (outcome === 2) break;
      expect(outcome).toMatchObject({ code: 'TARGET_WRITE_FAILED' });
      expect(image.generations).toHaveLength(1);
      const isUnknown = await writeGeneration(image, next).then(
        () => false,
        (error: unknown) => {
          expect(error).toMatchObject({
            code: 'TARGET_WRITE_FAILED',
            message: expect.stringContaining('open the image again') as string,
          });
          return true;
        },
      );
      if (isUnknown) unknown++;
      else known++;
      const restored = await restoreAll(await BackupImage.open(failing, core));
      expect(differs(restored.get(1), devices[0])).toBeUndefined();
      if (restored.has(2)) expect(differs(restored.get(2), next)).toBeUndefined();
      expect(isUnknown || restored.has(2)).toBe(true);
    }
    // The superblock and the last sync.
    expect(unknown).toBe(2);
    expect(known).toBeGreaterThan(4);
  });

  test('a device that is too small is TARGET_FULL at whatever point, and keeps what it had', async () => {
    const first = [randomDevice(new Random(1), 'a', 40_000, 4 * KiB, 0.5)];
    const second = someDevices();
    let full = 0;
    for (let sizeBytes = 128 * KiB; ; sizeBytes += 20 * KiB + 512) {
      const device = new MemoryDevice(sizeBytes);
      const image = await BackupImage.initialise(new DeviceStore(device), core);
      const outcomes: unknown[] = [];
      for (const devices of [first, second])
        outcomes.push(await writeGeneration(image, devices).catch((error: unknown) => error));
      const committed = outcomes.filter((outcome) => typeof outcome === 'number');
      for (const outcome of outcomes) {
        if (typeof outcome !== 'number') expect(outcome).toMatchObject({ code: 'TARGET_FULL' });
      }
      const restored = await restoreAll(await BackupImage.open(new DeviceStore(device), core));
      expect(restored.size).toBe(committed.length);
      if (restored.has(1))
        expect(differs(restored.get(1), typeof outcomes[0] === 'number' ? first : second)).toBeUndefined();
      if (committed.length === 2) break;
      full++;
    }
    expect(full).toBeGreaterThan(5);
    await expect(
      BackupImage.initialise(new DeviceStore(new MemoryDevice(100 * KiB)), core),
    ).rejects.toMatchObject({
      code: 'TARGET_FULL',
    });
  });

  test('what a reader would refuse is not committed', async () => {
    const { store } = await imageOf(1);
    const image = await BackupImage.open(store, core);
    const device = { id: 'a', sizeBytes: 0, blockSizeBytes: 4096, root: null };
    for (const wrong of [
      { id: '../a' },
      { sizeBytes: 0.5 },
      { blockSizeBytes: 1000 },
      { sizeBytes: 2 ** 53 },
    ]) {
      const writer = image.beginGeneration();
      await expect(writer.commit(recordOf([{ ...device, ...wrong }], 'xxh64'))).rejects.toMatchObject({
        code: 'BAD_ARGUMENT',
      });
      await writer.abandon();
    }
    expect((await reopen(store)).generations).toHaveLength(1);
  });
});

function leafOf(
  count: number,
  state: number,
  offset = 0,
  content?: Uint8Array,
): { states: Uint8Array; offsets: Float64Array; hashes: Uint8Array } {
  const hash = content ? core.hash('xxh64', content) : new Uint8Array(8);
  const hashes = new Uint8Array(count * 8);
  for (let i = 0; i < count; i++) hashes.set(hash, i * 8);
  return { states: new Uint8Array(count).fill(state), offsets: new Float64Array(count).fill(offset), hashes };
}

function firstOf<T>(items: readonly T[]): T {
  const [item] = items;
  if (item === undefined) throw new Error('an empty list');
  return item;
}
