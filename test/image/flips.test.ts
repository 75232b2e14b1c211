import { expect, test } from 'vitest';
import { GenerationDevice } from '#src/backup/image/generation-device';
import { BackupImage } from '#src/backup/image/image';
import { CopyPool } from '#src/backup/pool';
import { verify } from '#src/backup/verify';
import type { Core, HashAlgorithm } from '#src/core/core';
import { loadCore } from '#src/core/load';
import { isCofferdamError } from '#src/runtime/errors';
import { Random } from '#src/runtime/random';
import { KiB } from '#src/runtime/sizes';
import { readBytes } from '../support/bytes.js';
import { testSeed } from '../support/seed.js';
import { changed, randomDevice, writeGeneration, type Contents } from './support/generations.js';
import { MemoryStore } from './support/memory-store.js';
import { Stranger, type Extent } from './stranger.js';

/** An image with two generations, the second an incremental of the first, and what they hold. */
async function smallImage(
  core: Core,
  random: Random,
  algorithm: HashAlgorithm,
): Promise<{ bytes: Uint8Array; contents: Contents }> {
  const store = new MemoryStore();
  const image = await BackupImage.initialise(store, core);
  // 260 blocks, so that there is an inner node, a leaf that both share and one that they do not.
  const first = [randomDevice(random, 'a', 260 * 4 * KiB - 100, 4 * KiB, 0.02)];
  first[0]?.bytes.fill(7, 0, 100);
  first[0]?.bytes.fill(7, 258 * 4 * KiB);
  await writeGeneration(image, first, { algorithm });
  const second = first.map((device) => changed(random, device, 1));
  await writeGeneration(image, second, {
    algorithm,
    base: { record: await image.record(1), devices: first },
  });
  return {
    bytes: store.bytes.slice(),
    contents: new Map([first, second].map((devices, i) => [i + 1, devices])),
  };
}

/** `FLIPS=all` flips every bit of all metadata, which takes minutes. */
const ALL = process.env['FLIPS'] === 'all';

/** The bits to flip: all where each has a meaning of its own, one in some bytes where one is like another. */
function* bits(bytes: Uint8Array, reached: readonly Extent[], random: Random): Generator<number> {
  for (const { what, offset, length } of reached) {
    for (let at = offset; at < offset + length; at++) {
      const isField =
        (what === 'superblock' && (at < offset + 104 || bytes[at] !== 0)) ||
        (what === 'node' && (at < offset + 16 || bytes[at] !== 0));
      if (isField || (ALL && what !== 'block')) for (let bit = 0; bit < 8; bit++) yield at * 8 + bit;
      else if (
        random.chance({ superblock: 0.05, catalog: 0.3, record: 0.3, node: 0.02, block: 0.02 }[what])
      ) {
        yield at * 8 + random.below(8);
      }
    }
  }
}

/** Whether somebody who asks for everything is either told of damage or gets the right bytes. */
async function readsRight(image: BackupImage, contents: Contents): Promise<boolean> {
  for (const { generation } of image.generations) {
    try {
      const record = await image.record(generation);
      for (const { id } of record.devices) {
        await using device = new GenerationDevice(image, record, id);
        const expected = contents.get(generation)?.find((candidate) => candidate.id === id);
        if (!expected || Buffer.compare(await readBytes(device), expected.bytes) !== 0) return false;
      }
    } catch (error) {
      if (!isCofferdamError(error)) throw error;
    }
  }
  return true;
}

for (const algorithm of ['xxh64', 'blake3'] as const) {
  test(`a flipped bit is found by verify, and never restored, with ${algorithm}`, async () => {
    const random = new Random(testSeed());
    const core = await loadCore();
    await using pool = await CopyPool.start(core, 1);
    const { bytes, contents } = await smallImage(core, random, algorithm);

    const stranger = await Stranger.open(bytes);
    await stranger.readAll();
    const unique = new Map(stranger.reached.map((extent) => [extent.offset, extent]));
    const store = new MemoryStore(bytes);
    expect((await verify(await BackupImage.open(store, core), { pool })).ok).toBe(true);

    let flips = 0;
    for (const bit of bits(bytes, [...unique.values()], random)) {
      const at = Math.floor(bit / 8);
      const flip = async (): Promise<void> => {
        await store.write(at, Uint8Array.of((store.bytes[at] ?? 0) ^ (1 << (bit % 8))));
      };
      await flip();
      flips++;
      const image = await BackupImage.open(store, core).catch((error: unknown) => {
        if (isCofferdamError(error)) return undefined;
        throw error;
      });
      if (image) {
        const found = await verify(image, { pool });
        expect(found.ok, `bit ${bit % 8} of byte ${at} is not noticed`).toBe(false);
        // Reading everything takes long, and what verify sees a read sees.
        if (flips % 20 === 0)
          expect(await readsRight(image, contents), `byte ${at} gives wrong bytes`).toBe(true);
      }
      await flip();
    }
    expect(flips).toBeGreaterThan(4000);
  });
}

test('a flipped bit that nothing leads to is nobody’s business', async () => {
  const random = new Random(testSeed());
  const core = await loadCore();
  await using pool = await CopyPool.start(core, 1);
  const { bytes, contents } = await smallImage(core, random, 'xxh64');
  const stranger = await Stranger.open(bytes);
  await stranger.readAll();
  const isReached = new Uint8Array(bytes.length);
  for (const { offset, length } of stranger.reached) isReached.fill(1, offset, offset + length);
  const damaged = bytes.map((byte, i) => (isReached[i] === 0 ? byte ^ 0x55 : byte));
  expect(Buffer.compare(damaged, bytes)).not.toBe(0);
  const image = await BackupImage.open(new MemoryStore(damaged), core);
  expect((await verify(image, { pool })).ok).toBe(true);
  expect(await readsRight(image, contents)).toBe(true);
});
