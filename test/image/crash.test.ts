import { describe, expect, test } from 'vitest';
import { BackupImage } from '#src/backup/image/image';
import { verify } from '#src/backup/verify';
import { CopyPool } from '#src/backup/pool';
import type { Core } from '#src/core/core';
import { loadCore } from '#src/core/load';
import { isCofferdamError, messageOf } from '#src/runtime/errors';
import { Random } from '#src/runtime/random';
import { KiB, SECTOR_BYTES } from '#src/runtime/sizes';
import { testSeed } from '../support/seed.js';
import {
  changed,
  differs,
  randomDevice,
  restoreAll,
  writeGeneration,
  type Contents,
} from './support/generations.js';
import { MemoryStore } from './support/memory-store.js';
import { Recorder, afterCrash, type Crash } from './support/recorder.js';

/** A history of an image: what was sent to the store, and after which operation each promise was kept. */
interface Story {
  operations: Recorder['operations'];
  contents: Contents;
  /** Number of operations after which the image, and each generation, was said to be there. */
  promised: { image: number; generations: Map<number, number> };
}

/** Creates an image; a full generation, one given up, an incremental, a full one with the other hash. */
async function tell(seed: number, core: Core, store: Recorder): Promise<Story> {
  const random = new Random(seed);
  const contents: Contents = new Map();
  const image = await BackupImage.initialise(store, core);
  const story: Story = {
    operations: store.operations,
    contents,
    promised: { image: store.operations.length, generations: new Map() },
  };
  const note = (generation: number, devices: ReturnType<typeof randomDevice>[]): void => {
    contents.set(generation, devices);
    story.promised.generations.set(generation, store.operations.length);
  };

  const first = [
    randomDevice(random, 'a', 1100 * KiB, 4 * KiB, 0.1),
    randomDevice(random, 'b', 70_000, 16 * KiB, 0.8),
  ];
  note(await writeGeneration(image, first), first);
  const given = first.map((device) => changed(random, device, 20));
  await writeGeneration(image, given, { abandon: true });
  const second = first.map((device) => changed(random, device, 3));
  note(
    await writeGeneration(image, second, { base: { record: await image.record(1), devices: first } }),
    second,
  );
  const third = second.map((device) => changed(random, device, 10));
  note(await writeGeneration(image, third, { algorithm: 'blake3' }), third);
  return story;
}

/** What is wrong with the image after a crash, or undefined. */
async function judge(core: Core, story: Story, count: number, crash: Crash): Promise<string | undefined> {
  const store = await afterCrash(story.operations, count, crash);
  let image: BackupImage;
  try {
    image = await BackupImage.open(store, core);
  } catch (error) {
    if (count < story.promised.image && isCofferdamError(error)) return undefined;
    return `it cannot be opened: ${messageOf(error)}`;
  }
  const promised = [...story.promised.generations].filter(([, when]) => when <= count).length;
  const found = image.generations.length;
  if (found < promised) return `generation ${found + 1} was promised and is not there`;
  if (found > promised + 1) return `generation ${found} was not even begun`;
  // A torn sector is damage that may be told; whole sectors leave an image that looks as if nothing had happened.
  if (crash.tearBytes >= SECTOR_BYTES && image.warnings.length > 0) return image.warnings[0];
  return (await compare(image, story.contents)) ?? (await goOn(image, story.contents));
}

async function compare(image: BackupImage, contents: Contents): Promise<string | undefined> {
  try {
    for (const [generation, devices] of await restoreAll(image)) {
      const difference = differs(devices, contents.get(generation));
      if (difference) return `generation ${generation}: ${difference}`;
    }
    return undefined;
  } catch (error) {
    return `a generation cannot be read: ${messageOf(error)}`;
  }
}

/** Whatever the crash left behind, the next backup must neither fail nor do harm. */
async function goOn(image: BackupImage, contents: Contents): Promise<string | undefined> {
  const devices = [randomDevice(new Random(1), 'a', 300 * KiB, 4 * KiB, 0.5)];
  const generation = await writeGeneration(image, devices);
  const reopened = await BackupImage.open(image.store, image.core);
  const difference = differs((await restoreAll(reopened)).get(generation), devices);
  if (difference) return `the generation after the crash: ${difference}`;
  const expected = new Map(contents).set(generation, devices);
  return compare(reopened, expected);
}

/** What goes wrong in the crashes of a story: after each operation, by kills and by power cuts. */
async function* sweep(core: Core, story: Story, seed: number): AsyncGenerator<string> {
  for (let count = 0; count <= story.operations.length; count++) {
    for (const [i, { kind, tearBytes }] of crashes.entries()) {
      const random = new Random(seed + 1000 * count + i);
      const failure = await judge(core, story, count, { kind, tearBytes, random });
      if (failure) yield `${kind} after ${count} operations, seed ${seed}: ${failure}`;
    }
  }
}

/** How often each kind of crash is tried after each operation; `CRASHES=100` looks longer. */
const CRASHES = Number(process.env['CRASHES'] ?? 3);

const crashes = Array.from({ length: CRASHES }, () => [
  { kind: 'kill', tearBytes: SECTOR_BYTES } as const,
  { kind: 'power', tearBytes: SECTOR_BYTES } as const,
  // Sectors torn as well, which no device should do.
  { kind: 'power', tearBytes: 40 } as const,
]).flat();

test('a crash after any write leaves every promised generation, and the next one whole or not at all', async () => {
  const seed = testSeed();
  const core = await loadCore();
  const store = new Recorder();
  const story = await tell(seed, core, store);
  // One sync for the new image, and two for each of three generations.
  expect(story.operations.filter(({ kind }) => kind === 'sync')).toHaveLength(7);
  const failures: string[] = [];
  for await (const failure of sweep(core, story, seed)) failures.push(failure);
  expect(failures).toEqual([]);

  await using pool = await CopyPool.start(core, 1);
  const image = await BackupImage.open(new MemoryStore(store.bytes), core);
  expect((await verify(image, { pool })).ok).toBe(true);
});

/*
 * The sweep is worth something only if it finds programs that are wrong. Each store below turns the right program into a
 * wrong one, in a way that nothing but a crash brings to light.
 */
describe('the sweep finds', () => {
  const SLOTS = [0, 64 * KiB];
  const isSlot = (offset: number, bytes: Uint8Array): boolean =>
    SLOTS.includes(offset) && bytes.length === 4096;

  /** Fails unless some crash shows this failure. The seed is fixed, so that luck has no part in it. */
  async function expectFailure(store: Recorder, expected: RegExp): Promise<void> {
    const seed = 1;
    const core = await loadCore();
    const story = await tell(seed, core, store);
    // Without a crash nothing is wrong.
    expect(await compare(await BackupImage.open(store, core), story.contents)).toBeUndefined();
    const found: string[] = [];
    for await (const failure of sweep(core, story, seed)) {
      if (expected.test(failure)) return;
      found.push(failure);
    }
    expect(found).toContainEqual(expect.stringMatching(expected));
  }

  test('a superblock that is written before what it refers to is durable', async () => {
    class Unsynced extends Recorder {
      override async write(offset: number, bytes: Uint8Array): Promise<void> {
        if (isSlot(offset, bytes) && this.operations.at(-1)?.kind === 'sync') this.operations.pop();
        await super.write(offset, bytes);
      }
    }
    await expectFailure(new Unsynced(), /was cut off|fell back|cannot be read/);
  });

  test('a generation that is promised before its superblock is durable', async () => {
    class Hasty extends Recorder {
      override async sync(): Promise<void> {
        const last = this.operations.at(-1);
        const isFinal = last?.kind === 'write' && isSlot(last.offset, last.bytes);
        if (!isFinal) await super.sync();
      }
    }
    await expectFailure(new Hasty(), /was promised and is not there/);
  });

  test('a superblock that is written over the newer slot', async () => {
    const core = await loadCore();
    /** Puts all superblocks into slot 0, with the sequence numbers that belong there. */
    class OneSlot extends Recorder {
      override async write(offset: number, bytes: Uint8Array): Promise<void> {
        if (!isSlot(offset, bytes)) return await super.write(offset, bytes);
        const slot = bytes.slice();
        const view = new DataView(slot.buffer);
        view.setBigUint64(40, 2n * view.getBigUint64(40, true) - 1n, true);
        slot.set(core.hash('blake3', slot.subarray(0, 480)), 480);
        await super.write(0, slot);
      }
    }
    await expectFailure(new OneSlot(), /cannot be opened/);
  });

  test('space of a committed generation that is used again', async () => {
    /** Lets the second generation's first data land where the first generation's first data is, and tells nobody. */
    class Overwriting extends Recorder {
      #dataWrites = 0;
      override async write(offset: number, bytes: Uint8Array): Promise<void> {
        const isData = offset >= 128 * KiB;
        if (isData && ++this.#dataWrites === 1) this.#first = { offset, bytes: bytes.slice() };
        await super.write(offset, bytes);
        // Harm that is made good again before the next sync: only a crash between the two shows it.
        if (isData && this.#first && this.operations.filter(({ kind }) => kind === 'sync').length === 3) {
          const { offset: place, bytes: old } = this.#first;
          this.#first = undefined;
          await super.write(
            place,
            old.map((byte) => byte ^ 0xff),
          );
          await super.write(place, old);
        }
      }
      #first: { offset: number; bytes: Uint8Array } | undefined;
    }
    await expectFailure(new Overwriting(), /cannot be read/);
  });
});
