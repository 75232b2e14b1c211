import { describe, expect, test } from 'vitest';
import { DeviceStore } from '#src/backup/image/device-store';
import { CopyPool } from '#src/backup/pool';
import { loadCore } from '#src/core/load';
import { FaultyDevice } from '#src/devices/faulty';
import { MemoryDevice } from '#src/devices/memory';
import { realClock } from '#src/runtime/clock';
import { verify, type VerifyReport } from '#src/backup/verify';
import { BackupImage } from '#src/backup/image/image';
import { Random } from '#src/runtime/random';
import { KiB, MiB } from '#src/runtime/sizes';
import { testSeed } from '../support/seed.js';
import { changed, randomDevice, writeGeneration, type DeviceContent } from './support/generations.js';
import { damage, storedBlocks } from './support/places.js';
import { bench, setUp, type Bench } from './support/stores.js';

/** Two devices of two levels; the second generation is an incremental. */
async function twoGenerations({ image }: Bench, seed: number): Promise<DeviceContent[][]> {
  const random = new Random(seed);
  const first = [
    randomDevice(random, 'a', 2 * MiB + 100, 4 * KiB, 0.3),
    randomDevice(random, 'b', 20 * MiB, 64 * KiB, 0.1),
  ];
  const second = first.map((device) => changed(random, device, 10));
  await writeGeneration(image, first);
  await writeGeneration(image, second, { base: { record: await image.record(1), devices: first } });
  return [first, second];
}

/** Device, offset and length of everything bad in a generation. */
function badIn(report: VerifyReport, generation: number): [string, number, number][] {
  const devices = report.generations.find((candidate) => candidate.generation === generation)?.devices ?? [];
  return devices.flatMap(({ id, bad }) =>
    bad.map(({ offsetBytes, lengthBytes }): [string, number, number] => [id, offsetBytes, lengthBytes]),
  );
}

describe.each(bench)('verify through %s', (kind) => {
  test('finds nothing wrong with a sound image, and reads shared blocks once', async () => {
    await using tools = await setUp(kind);
    const { image, pool } = tools;
    await twoGenerations(tools, testSeed());
    const last = new Map<string, { doneBytes: number; readBytes: number; totalBytes: number }>();
    const report = await verify(image, {
      pool,
      onProgress: (devices) => devices.forEach((device) => last.set(device.id, device)),
    });
    expect(report).toMatchObject({ ok: true, problems: [] });
    expect(report.generations.map(({ generation }) => generation)).toEqual([1, 2]);
    for (const [id, sizeBytes, blockSizeBytes] of [
      ['a', 2 * MiB + 100, 4 * KiB],
      ['b', 20 * MiB, 64 * KiB],
    ] as const) {
      for (const { devices } of report.generations) {
        expect(devices).toContainEqual({ id, sizeBytes, goodBytes: sizeBytes, bad: [] });
      }
      expect(last.get(id)).toMatchObject({ doneBytes: 2 * sizeBytes, totalBytes: 2 * sizeBytes });
      // Leaves that were shared are not read again; 10 changed blocks leave at least one leaf of `b` alone, or none.
      const stored = [await storedBlocks(image, 1, id), await storedBlocks(image, 2, id)];
      const leaves = stored.map((blocks) => new Map(blocks.map(({ block, offset }) => [block, offset])));
      const isShared = (leaf: number): boolean =>
        Array.from({ length: 256 }, (_, i) => leaf * 256 + i).every(
          (block) => leaves[0]?.get(block) === leaves[1]?.get(block),
        );
      const again = [...(leaves[1]?.keys() ?? [])].filter((block) => !isShared(Math.floor(block / 256)));
      const tail = id === 'a' ? 4 * KiB - 100 : 0;
      const blocks = (leaves[0]?.size ?? 0) + again.length;
      expect(Math.abs((last.get(id)?.readBytes ?? 0) - blocks * blockSizeBytes)).toBeLessThanOrEqual(
        2 * tail,
      );
    }
  });

  test('names damaged blocks by device and exact range, in every generation that has them', async () => {
    await using tools = await setUp(kind);
    const { image, pool, store } = tools;
    await twoGenerations(tools, testSeed());
    const [first, second] = [await storedBlocks(image, 1, 'a'), await storedBlocks(image, 2, 'a')];
    const isIn = (blocks: typeof first, offset: number): boolean =>
      blocks.some((each) => each.offset === offset);
    const [shared, other] = second.filter(({ offset }) => isIn(first, offset));
    const only = second.find(({ offset }) => !isIn(first, offset));
    if (!shared || !other || !only) throw new Error('this seed has no such blocks');
    for (const { offset } of [shared, other, only]) await damage(store, offset + 17);

    const report = await verify(image, { pool });
    expect(report).toMatchObject({ ok: false, problems: [] });
    const blocksOf = (generation: number): number[] =>
      badIn(report, generation).flatMap(([id, offset, length]) => {
        expect(id).toBe('a');
        return Array.from({ length: Math.ceil(length / 4096) }, (_, i) => offset / 4096 + i);
      });
    const ascending = (a: number, b: number): number => a - b;
    expect(blocksOf(1)).toEqual([shared.block, other.block].toSorted(ascending));
    expect(blocksOf(2)).toEqual([shared.block, other.block, only.block].toSorted(ascending));
    const [device] = report.generations[1]?.devices ?? [];
    expect((device?.goodBytes ?? 0) + badIn(report, 2).reduce((sum, [, , length]) => sum + length, 0)).toBe(
      2 * MiB + 100,
    );
  });

  test('takes all under a damaged node for bad, and goes on elsewhere', async () => {
    await using tools = await setUp(kind);
    const { image, pool, store } = tools;
    await writeGeneration(image, [
      randomDevice(new Random(1), 'a', 4 * MiB - 5, 4 * KiB, 1),
      randomDevice(new Random(2), 'b', 4 * MiB, 4 * KiB, 1),
    ]);
    const record = await image.record(1);
    const map = image.blockMap(record, 'a');
    const place = async (level: number, index: number): Promise<number> =>
      (await map.node(level, index))?.place.offset ?? 0;
    await damage(store, (await place(0, 3)) + 4000);
    const block = (await storedBlocks(image, 1, 'b'))[5];
    await damage(store, block?.offset ?? 0);
    expect(badIn(await verify(image, { pool }), 1)).toEqual([
      ['a', 3 * MiB, MiB - 5],
      ['b', 5 * 4096, 4096],
    ]);
    await damage(store, (await place(1, 0)) + 40);
    expect(badIn(await verify(image, { pool }), 1)).toEqual([
      ['a', 0, 4 * MiB - 5],
      ['b', 5 * 4096, 4096],
    ]);
  });

  test('tells of a lost record, and checks the other generations', async () => {
    await using tools = await setUp(kind);
    const { image, pool, store } = tools;
    await twoGenerations(tools, 1);
    await damage(store, image.entry(1).record.offset + 20);
    const report = await verify(image, { pool });
    expect(report.ok).toBe(false);
    expect(report.problems).toEqual([expect.stringContaining('generation 1 is lost')]);
    expect(report.generations.map(({ generation }) => generation)).toEqual([2]);
    // One that was not asked for is not in the way.
    expect((await verify(image, { generation: 'latest', pool })).ok).toBe(true);
    expect((await verify(image, { generation: 2, pool })).ok).toBe(true);
    expect((await verify(image, { generation: 1, pool })).ok).toBe(false);
    await expect(verify(image, { generation: 3, pool })).rejects.toMatchObject({
      code: 'UNKNOWN_GENERATION',
    });
  });

  test('can be cancelled, before and meanwhile', async () => {
    await using tools = await setUp(kind);
    const { image, pool } = tools;
    await writeGeneration(image, [randomDevice(new Random(1), 'a', 40 * MiB, 4 * KiB, 0.05)]);
    await expect(verify(image, { pool, signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'CANCELLED',
    });
    const controller = new AbortController();
    const verifying = verify(image, { pool, signal: controller.signal });
    setImmediate(() => controller.abort());
    await expect(verifying).rejects.toMatchObject({ code: 'CANCELLED' });
    expect((await verify(image, { pool })).ok).toBe(true);
  });
});

test('what the medium does not give back is bad, and the rest is checked', async () => {
  const core = await loadCore();
  await using pool = await CopyPool.start(core, 1);
  await using medium = new FaultyDevice(new MemoryDevice(8 * MiB), { clock: realClock });
  const image = await BackupImage.initialise(new DeviceStore(medium), core);
  const devices = ['a', 'b', 'c'].map((id, i) => randomDevice(new Random(i), id, 50_000, 4 * KiB, 1));
  for (let i = 0; i < 2; i++) await writeGeneration(image, devices);
  const block = (await storedBlocks(image, 2, 'a'))[3];
  const node = await image.blockMap(await image.record(2), 'b').node(0, 0);
  for (const offsetBytes of [block?.offset ?? 0, node?.place.offset ?? 0, 64 * KiB]) {
    medium.inject({ operation: 'read', range: { offsetBytes, lengthBytes: 1 } });
  }

  const reopened = await BackupImage.open(new DeviceStore(medium), core);
  expect(reopened.warnings).toEqual([expect.stringContaining('slot 1')]);
  const report = await verify(reopened, { pool });
  expect(report.problems).toEqual([expect.stringContaining('slot 1')]);
  expect(badIn(report, 1)).toEqual([]);
  expect(badIn(report, 2)).toEqual([
    ['a', 3 * 4096, 4096],
    ['b', 0, 50_000],
  ]);
  expect(report.generations[1]?.devices[0]?.bad[0]?.reason).toContain('cannot be read');
});
