import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { GenerationDevice } from '#src/backup/image/generation-device';
import { BackupImage } from '#src/backup/image/image';
import { CopyPool } from '#src/backup/pool';
import { verify, type VerifyReport } from '#src/backup/verify';
import type { Core } from '#src/core/core';
import { loadCore } from '#src/core/load';
import { isCofferdamError } from '#src/runtime/errors';
import { Random } from '#src/runtime/random';
import { KiB, MiB } from '#src/runtime/sizes';
import { testSeed } from '../support/seed.js';
import { forge, type Forgery, type Json } from './support/forger.js';
import { randomDevice, writeGeneration } from './support/generations.js';
import { MemoryStore } from './support/memory-store.js';

/*
 * Images made by somebody who means harm: all checksums are right, and what they cover is not. Whatever it is, a reader may
 * only ever fail with an error of ours. A hang or a huge allocation fails these tests by their time limit or by memory.
 */
const RUNS = Number(process.env['RUNS'] ?? 400);

let core: Core;
let original: Uint8Array;
let pool: CopyPool;

beforeAll(async () => {
  core = await loadCore();
  pool = await CopyPool.start(core, 1);
  const store = new MemoryStore();
  const image = await BackupImage.initialise(store, core);
  await writeGeneration(image, [randomDevice(new Random(1), 'a', 600 * 4 * KiB, 4 * KiB, 0.05)]);
  original = store.bytes.slice();
});

afterAll(() => pool[Symbol.asyncDispose]());

/** Does all that can be done with an image; throws only what is not an error of ours. */
async function exercise(bytes: Uint8Array): Promise<VerifyReport | undefined> {
  return await ours(async () => {
    const image = await BackupImage.open(new MemoryStore(bytes), core);
    for (const { generation } of image.generations) await ours(() => readGeneration(image, generation));
    const report = await verify(image, { pool });
    const next = await ours(() => writeGeneration(image, [randomDevice(new Random(2), 'b', 8192, 4096, 1)]));
    if (next !== undefined) await image.record(next);
    return report;
  });
}

async function readGeneration(image: BackupImage, generation: number): Promise<void> {
  const record = await image.record(generation);
  for (const { id, sizeBytes } of record.devices) {
    await using device = new GenerationDevice(image, record, id);
    const part = new Uint8Array(Math.min(sizeBytes, MiB));
    await ours(() => device.read(0, part));
    await ours(() => device.read(sizeBytes - part.length, part));
    await ours(() => device.allocation(0, sizeBytes));
  }
}

async function ours<T>(action: () => Promise<T>): Promise<T | undefined> {
  try {
    return await action();
  } catch (error) {
    if (isCofferdamError(error)) return undefined;
    throw error;
  }
}

/** Numbers that programs trip over. */
const number = fc.oneof(
  fc.constantFrom(
    0n,
    1n,
    4095n,
    4096n,
    65536n,
    131071n,
    131072n,
    2n ** 32n,
    2n ** 53n - 1n,
    2n ** 53n,
    2n ** 64n - 1n,
  ),
  fc.bigInt({ min: 0n, max: 4n * 1024n * 1024n }),
);

const binaryEdit = (length: number): fc.Arbitrary<(view: DataView) => void> =>
  fc
    .array(
      fc.oneof(
        fc.record({ at: fc.nat(length - 1), byte: fc.nat(255) }),
        // Fields of the superblock, and of the first entries of a node, are at multiples of 8.
        fc.record({ at: fc.nat(Math.min(32, length / 8 - 1)).map((word) => word * 8), value: number }),
        fc.record({
          at: fc.nat(Math.min(32, length / 8 - 1)).map((word) => word * 8),
          short: fc.nat(2 ** 32 - 1),
        }),
      ),
      { minLength: 1, maxLength: 4 },
    )
    .map((edits) => (view) => {
      for (const edit of edits) {
        if ('byte' in edit) view.setUint8(edit.at, edit.byte);
        else if ('value' in edit) view.setBigUint64(edit.at, edit.value, true);
        else view.setUint32(edit.at, edit.short, true);
      }
    });

const hostileJson: fc.Arbitrary<Json> = fc.oneof(
  fc.constantFrom<Json>(
    ...[
      null,
      true,
      -1,
      0,
      0.5,
      4096,
      131072,
      2 ** 32,
      2 ** 53 - 1,
      2 ** 53,
      1e300,
      '',
      'xxh64',
      'blake3',
      '../x',
      '.',
    ],
    ...['0'.repeat(16), '0'.repeat(64), 'x'.repeat(100_000), [], {}, Array<Json>(1000).fill(1)],
  ),
  fc.nat(),
  fc.string(),
);

/** Replaces, removes or doubles something at any depth; or answers what is no JSON at all. */
const jsonEdit: fc.Arbitrary<(json: Json) => Json | Uint8Array> = fc.oneof(
  {
    weight: 9,
    arbitrary: fc.tuple(fc.array(fc.nat(20), { minLength: 1, maxLength: 6 }), hostileJson).map(replaceIn),
  },
  { weight: 1, arbitrary: fc.uint8Array({ maxLength: 100 }).map((bytes) => () => bytes) },
  {
    weight: 1,
    arbitrary: fc.constantFrom('[', '{"a":').map((part) => () => Buffer.from(part.repeat(100_000))),
  },
);

function replaceIn([path, value]: [number[], Json]): (json: Json) => Json {
  const replace = (json: Json, depth: number): Json => {
    const step = path[depth];
    if (step === undefined || json === null || typeof json !== 'object') return value;
    if (Array.isArray(json)) {
      // Past the end: the list gets longer by one.
      const at = step % (json.length + 1);
      return json.toSpliced(
        at,
        1,
        at < json.length ? replace(json[at] ?? null, depth + 1) : (json[0] ?? value),
      );
    }
    const members = Object.entries(json);
    const [name = 'a', member = null] = members[step % Math.max(1, members.length)] ?? [];
    return { ...json, [name]: replace(member, depth + 1) };
  };
  return (json) => replace(json, 0);
}

const forgery: fc.Arbitrary<Forgery> = fc.oneof(
  fc.record({ node: fc.record({ index: fc.nat(3), edit: binaryEdit(6160) }) }),
  fc.record({ record: jsonEdit }),
  fc.record({ catalog: jsonEdit }),
  fc.record({ superblock: binaryEdit(480) }),
);

test('a forged image is refused, or read, and nothing else', async () => {
  expect((await exercise(forge(original, core, {})))?.ok).toBe(true);
  await fc.assert(
    fc.asyncProperty(forgery, async (change) => {
      await exercise(forge(original, core, change));
    }),
    { numRuns: RUNS, seed: testSeed() },
  );
}, 300_000);

describe('a forged image', () => {
  async function open(change: Forgery): Promise<BackupImage> {
    return BackupImage.open(new MemoryStore(forge(original, core, change)), core);
  }

  test('whose nodes refer to one child 256 times over ends, and is found out', async () => {
    // Six levels of this would be 256^6 leaves.
    const image = await open({
      node: {
        index: 0,
        edit: (view) => {
          view.setUint16(10, 256, true);
          for (let at = 16 + 24; at < 6160; at += 24)
            for (let i = 0; i < 24; i++) view.setUint8(at + i, view.getUint8(16 + i));
        },
      },
      record: (json) => withDevice(json, { sizeBytes: 256 * 256 * 4 * KiB }),
    });
    const report = await verify(image, { pool });
    expect(report.generations[0]?.devices[0]?.bad).toEqual([
      {
        offsetBytes: 0,
        lengthBytes: 256 * MiB,
        reason: expect.stringContaining('a node more than once') as string,
      },
    ]);
  });

  test('that says its record is enormous is refused before anything is allocated', async () => {
    const image = await open({
      catalog: (json) => {
        const [entry] = (json as { generations: { record: object }[] }).generations;
        Object.assign(entry?.record ?? {}, { length: 2 ** 52 });
        return json;
      },
    });
    await expect(image.record(1)).rejects.toMatchObject({ code: 'IMAGE_CORRUPT' });
  });

  test.each([
    { id: '../../etc/passwd' },
    { id: '.hidden' },
    { id: '-rf' },
    { id: '' },
    { id: 'a'.repeat(65) },
    { id: 'a/b' },
    { id: 'a\0b' },
    { blockSizeBytes: 0 },
    { blockSizeBytes: 2048 },
    { blockSizeBytes: 8 * MiB },
    { blockSizeBytes: 5000 },
    { sizeBytes: -1 },
    { sizeBytes: 2 ** 53 },
    { sizeBytes: 0 },
  ])('with a device of %o has no readable record', async (device) => {
    const image = await open({ record: (json) => withDevice(json, device) });
    await expect(image.record(1)).rejects.toMatchObject({
      code: 'IMAGE_CORRUPT',
      message: expect.stringMatching(
        /makes no sense: (devices\.0\.(id|sizeBytes|blockSizeBytes)|.* no bytes)/,
      ) as string,
    });
    const report = await verify(image, { pool });
    expect(report).toMatchObject({
      ok: false,
      generations: [],
      problems: [expect.stringContaining('generation 1')],
    });
  });

  test.each([
    ['a block in the superblock', 1, 64 * KiB],
    ['a block at the end', 1, 'end'],
    ['a block so far out that numbers fail', 1, 2 ** 53 - 2048],
    ['a node in the superblock', 0, 0],
    ['a node that ends past the end', 0, 'end'],
  ] as const)('that refers to %s is refused before anything is read there', async (_what, index, offset) => {
    const image = await open({
      node: {
        index,
        edit: (view) => {
          const place = firstEntry(view);
          // The forgery appends a record and a catalog, a page each, before the end.
          const end = original.length + 2 * 4096;
          view.setBigUint64(place, BigInt(offset === 'end' ? end - 4095 : offset), true);
        },
      },
    });
    const map = image.blockMap(await image.record(1), 'a');
    await expect(map.leaf(0)).rejects.toMatchObject({
      code: 'IMAGE_CORRUPT',
      message: expect.stringMatching(/entry \d+ makes no sense/) as string,
    });
  });

  test('whose superblock is in the wrong slot is damaged there', async () => {
    const image = await open({
      superblock: (view) => view.setBigUint64(40, view.getBigUint64(40, true) + 1n, true),
    });
    expect(image.warnings).toEqual([expect.stringContaining('does not belong in this slot')]);
    expect(image.generations).toEqual([]);
  });

  test.each([
    ['no magic', 3, (view: DataView): void => view.setUint8(0, 0)],
    ['another level', 3, (view: DataView): void => view.setUint8(8, 1)],
    ['another algorithm', 3, (view: DataView): void => view.setUint8(9, 2)],
    ['too many entries', 3, (view: DataView): void => view.setUint16(10, 89, true)],
    ['something in the reserved bytes', 3, (view: DataView): void => view.setUint8(13, 1)],
    ['an entry past the end of the device', 3, (view: DataView): void => copyEntry(view, 100)],
    ['a child past the end of the device', 0, (view: DataView): void => copyEntry(view, 100)],
    ['an entry that is zero, and not', 3, (view: DataView): void => view.setUint8(16 + 100 * 24, 1)],
    ['an entry of a leaf in the root', 0, (view: DataView): void => view.setUint8(16 + 12, 2)],
    ['an entry of a node in a leaf', 3, (view: DataView): void => setKind(view, 1)],
  ])('with a node that has %s is refused', async (_what, index, edit) => {
    const image = await open({ node: { index, edit } });
    const map = image.blockMap(await image.record(1), 'a');
    await expect(map.leaf(2)).rejects.toMatchObject({ code: 'IMAGE_CORRUPT' });
    await expect(map.leaf(2)).rejects.not.toMatchObject({
      message: expect.stringContaining('checksum') as string,
    });
  });

  test.each([
    ['record', { offset: 65536, length: 512 }],
    ['record', { offset: 2 ** 40, length: 512 }],
  ])('that says its %s is outside is refused', async (_what, place) => {
    const image = await open({
      catalog: (json) => {
        const [entry] = (json as { generations: { record: object }[] }).generations;
        Object.assign(entry?.record ?? {}, place);
        return json;
      },
    });
    await expect(image.record(1)).rejects.toMatchObject({
      code: 'IMAGE_CORRUPT',
      message: expect.stringContaining('outside the image') as string,
    });
  });

  test('whose catalog and record contradict each other is refused', async () => {
    for (const lie of [
      { finishedAt: '2030-01-01T00:00:00.000Z' },
      { consistency: 'device' },
      { generation: 2 },
      { storedBytes: 9 },
    ]) {
      const image = await open({
        catalog: (json) => {
          const catalog = json as { lastGeneration: number; generations: object[] };
          catalog.lastGeneration = 2;
          Object.assign(catalog.generations[0] ?? {}, lie);
          return json;
        },
      });
      await expect(image.record('latest')).rejects.toMatchObject({
        code: 'IMAGE_CORRUPT',
        message: expect.stringContaining('the catalog says something else') as string,
      });
    }
  });

  test('with one ID twice has no readable record', async () => {
    const image = await open({
      record: (json) => {
        const { devices } = json as { devices: Json[] };
        return { ...(json as object), devices: [...devices, ...devices] };
      },
    });
    await expect(image.record(1)).rejects.toMatchObject({ code: 'IMAGE_CORRUPT' });
  });

  test.each([
    ['of a kind that is reserved for compressed blocks', 12, 3],
    ['of a kind that is reserved for hashes without data', 12, 4],
    ['with a compression', 13, 1],
    ['with a reserved bit', 15, 1],
  ])('with an entry %s is too new', async (_what, at, value) => {
    // Leaves come after the root; the first entry in use of the first of them.
    const image = await open({
      node: { index: 1, edit: (view) => view.setUint8(firstEntry(view) + at, value) },
    });
    const record = await image.record(1);
    await expect(image.blockMap(record, 'a').leaf(0)).rejects.toMatchObject({ code: 'IMAGE_VERSION' });
    const report = await verify(image, { pool });
    // All that the leaf covers, and nothing more.
    expect(report.generations[0]?.devices[0]?.bad).toMatchObject([{ offsetBytes: 0, lengthBytes: MiB }]);
  });
});

/** The place of the first entry in use. */
function firstEntry(view: DataView): number {
  let place = 16;
  while (view.getUint8(place + 12) === 0) place += 24;
  return place;
}

function setKind(view: DataView, kind: number): void {
  view.setUint8(firstEntry(view) + 12, kind);
}

function copyEntry(view: DataView, to: number): void {
  const from = firstEntry(view);
  for (let i = 0; i < 24; i++) view.setUint8(16 + to * 24 + i, view.getUint8(from + i));
}

/** The record with members of its device changed. */
function withDevice(json: Json, members: { [member: string]: Json }): Json {
  const record = json as { devices: { [member: string]: Json }[] } & { [member: string]: Json };
  return { ...record, devices: record.devices.map((device) => ({ ...device, ...members })) };
}
