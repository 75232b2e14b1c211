import { readFile, stat, truncate, writeFile } from 'node:fs/promises';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Core } from '#src/core/core';
import { loadCore } from '#src/core/load';
import type { BlockDevice } from '#src/devices/block-device';
import { FaultyDevice } from '#src/devices/faulty';
import { FileDevice } from '#src/devices/file';
import { MemoryDevice } from '#src/devices/memory';
import { OverlayDevice } from '#src/devices/overlay';
import { newLayout } from '#src/devices/overlay-header';
import { realClock } from '#src/runtime/clock';
import { GiB, KiB, MiB } from '#src/runtime/sizes';
import { differenceAt, randomBytes, readBytes } from '../support/bytes.js';
import { temporaryDirectory } from '../support/directory.js';
import { needs } from '../support/needs.js';
import { testSeed } from '../support/seed.js';
import { holdOpen } from './holder.js';
import { deviceRuns, sendRequest } from './model.js';

const SIZE = 300_001;
const BLOCK = 4 * KiB;
const content = randomBytes(SIZE, 1);

async function newBase(bytes = content): Promise<MemoryDevice> {
  const base = new MemoryDevice(bytes.length, { name: 'base' });
  await base.write(0, bytes);
  return base;
}

async function openOverlay(path: string, baseName = 'random', core?: Core): Promise<OverlayDevice> {
  return await OverlayDevice.open(path, { base: await newBase(), baseName, core });
}

/** Changes a byte of a file. */
async function flip(path: string, offset: number): Promise<void> {
  await using file = await FileDevice.open(path);
  const [byte = 0] = await readBytes(file, offset, 1);
  await file.write(offset, Uint8Array.of(byte ^ 0x10));
}

test('random requests over random bytes do what they do to a copy of them, also when opened anew', async () => {
  await fc.assert(
    fc.asyncProperty(deviceRuns(SIZE), fc.nat(8), async (run, reopenAfter) => {
      await using directory = temporaryDirectory({ inMemory: true });
      const path = directory.file('overlay');
      const expected = await newBase();
      let overlay = await openOverlay(path);
      const known = new Uint8Array(SIZE).fill(1);
      for (const [index, batch] of run.entries()) {
        for (const device of [overlay, expected]) {
          await Promise.all(batch.map((request) => sendRequest(device, request)));
        }
        for (const { kind, offsetBytes, lengthBytes } of batch) {
          const isTrim = kind === 'trim';
          if (isTrim || kind === 'write' || kind === 'zeroes') {
            known.fill(isTrim ? 0 : 1, offsetBytes, offsetBytes + lengthBytes);
          }
        }
        if (index === reopenAfter) {
          await overlay.flush();
          await overlay.close();
          overlay = await openOverlay(path);
        }
        const [found, wanted] = [await readBytes(overlay), await readBytes(expected)];
        for (let i = 0; i < SIZE; i++) if (known[i] === 0) wanted[i] = found[i] ?? 0;
        expect(differenceAt(found, wanted)).toBeUndefined();
      }
      await overlay.close();
    }),
    { seed: testSeed(), numRuns: 20 },
  );
});

test('a new one is the base, and the base never changes', async () => {
  await using directory = temporaryDirectory();
  const base = await newBase();
  await using overlay = await OverlayDevice.open(directory.file('overlay'), { base, baseName: 'random' });
  expect(differenceAt(await readBytes(overlay), content)).toBeUndefined();
  await overlay.write(1000, randomBytes(100_000, 2), { fua: true });
  await overlay.writeZeroes(150_000, 50_000);
  await overlay.trim(200_000, 50_000);
  expect(differenceAt(await readBytes(base), content)).toBeUndefined();
});

test('the allocation map is the base’s where nothing was written', async () => {
  const bytes = content.slice();
  bytes.fill(0, 128 * KiB, 192 * KiB);
  const base = new MemoryDevice(SIZE);
  for (const [start, end] of [
    [0, 128 * KiB],
    [192 * KiB, SIZE],
  ] as const) {
    await base.write(start, bytes.subarray(start, end));
  }
  const file = new MemoryDevice(newLayout(SIZE).fileBytes);
  await using overlay = await OverlayDevice.on(file, { base, baseName: 'random' });
  await overlay.write(128 * KiB + 5, Uint8Array.of(1));
  await overlay.writeZeroes(16 * KiB, 8 * KiB);
  expect(await overlay.allocation(0, SIZE)).toEqual([
    { offsetBytes: 0, lengthBytes: 16 * KiB, kind: 'data' },
    { offsetBytes: 16 * KiB, lengthBytes: 8 * KiB, kind: 'zero' },
    { offsetBytes: 24 * KiB, lengthBytes: 108 * KiB, kind: 'data' },
    { offsetBytes: 132 * KiB, lengthBytes: 60 * KiB, kind: 'zero' },
    { offsetBytes: 192 * KiB, lengthBytes: SIZE - 192 * KiB, kind: 'data' },
  ]);
});

test('a base that cannot be read fails a write to a part of a block, which stays as it was, and not one to the whole', async () => {
  const memory = await newBase();
  const base = new FaultyDevice(memory, { clock: realClock });
  const file = new MemoryDevice(newLayout(SIZE).fileBytes);
  await using overlay = await OverlayDevice.on(file, { base, baseName: 'random' });
  {
    using _fault = base.inject({ operation: 'read' });
    await expect(overlay.write(10, Uint8Array.of(1))).rejects.toMatchObject({ code: 'INJECTED_FAULT' });
    await overlay.write(BLOCK, new Uint8Array(BLOCK).fill(3));
    expect(await readBytes(overlay, BLOCK, BLOCK)).toEqual(new Uint8Array(BLOCK).fill(3));
  }
  expect(differenceAt(await readBytes(overlay, 0, BLOCK), content.subarray(0, BLOCK))).toBeUndefined();
});

test('after a flush that failed none succeeds, as nobody knows what the file has', async () => {
  const file = new FaultyDevice(new MemoryDevice(newLayout(SIZE).fileBytes), { clock: realClock });
  await using overlay = await OverlayDevice.on(file, { base: await newBase(), baseName: 'random' });
  await overlay.write(0, Uint8Array.of(1));
  {
    using _fault = file.inject({ operation: 'flush', nth: 1 });
    await expect(overlay.flush()).rejects.toMatchObject({ code: 'INJECTED_FAULT' });
  }
  await expect(overlay.flush()).rejects.toMatchObject({ code: 'INJECTED_FAULT' });
});

describe('in a file', () => {
  test('nobody else has it while it is open', async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('overlay');
    {
      await using _overlay = await openOverlay(path);
      await expect(openOverlay(path)).rejects.toMatchObject({ code: 'DEVICE_BUSY' });
    }
    await (await openOverlay(path)).close();
  });

  needs('native core')('no other process has it either', async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('overlay');
    const core = await loadCore('native');
    await (await openOverlay(path)).close();
    await using _holder = await holdOpen(path, { core: 'native' });
    await expect(openOverlay(path, 'random', core)).rejects.toMatchObject({ code: 'DEVICE_BUSY' });
  });

  test('an overlay over something else is refused, and left as it is', async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('overlay');
    await (await openOverlay(path)).close();
    const before = await readFile(path);
    await expect(openOverlay(path, 'something else')).rejects.toMatchObject({
      code: 'NOT_AN_OVERLAY',
      message: expect.stringContaining('of random, not over 300001 bytes of something else') as unknown,
    });
    const base = new MemoryDevice(SIZE - 1);
    await expect(OverlayDevice.open(path, { base, baseName: 'random' })).rejects.toMatchObject({
      code: 'NOT_AN_OVERLAY',
    });
    expect(differenceAt(await readFile(path), before)).toBeUndefined();
  });

  test('any other file is refused, and left as it is', async () => {
    await using directory = temporaryDirectory();
    const { fileBytes } = newLayout(SIZE);
    const others = {
      'a text': Buffer.from('hello'),
      'an empty file': Buffer.alloc(0),
      'random bytes of the right size': Buffer.from(randomBytes(fileBytes, 3)),
      // A disk that begins with zeros, whose size is by chance the right one.
      'a disk': Buffer.concat([Buffer.alloc(fileBytes - 100), Buffer.from(randomBytes(100, 4))]),
    };
    for (const [name, bytes] of Object.entries(others)) {
      const path = directory.file(name);
      await writeFile(path, bytes);
      await expect(openOverlay(path), name).rejects.toMatchObject({ code: 'NOT_AN_OVERLAY', device: path });
      expect(differenceAt(await readFile(path), bytes)).toBeUndefined();
    }
  });

  test('whatever bit of the header is flipped, it is refused', async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('overlay');
    await (await openOverlay(path)).close();
    for (let offset = 0; offset < 512; offset += 7) {
      await flip(path, offset);
      await expect(openOverlay(path), String(offset)).rejects.toMatchObject({ code: 'NOT_AN_OVERLAY' });
      await flip(path, offset);
    }
    await (await openOverlay(path)).close();
    await truncate(path, newLayout(SIZE).fileBytes - 1);
    await expect(openOverlay(path)).rejects.toMatchObject({ code: 'NOT_AN_OVERLAY' });
  });

  test('whatever bit of its map is flipped, it is refused with the place', async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('overlay');
    const overlay = await openOverlay(path);
    await overlay.write(0, Uint8Array.of(1), { fua: true });
    await overlay.close();
    for (const offset of [0, 1, 17, 503, 504, 511]) {
      await flip(path, 4096 + offset);
      await expect(openOverlay(path)).rejects.toMatchObject({ code: 'OVERLAY_CORRUPT', offsetBytes: 4096 });
      await flip(path, 4096 + offset);
    }
    await (await openOverlay(path)).close();
  });

  needs('native core')('it can be opened when its first opener got no further than making it', async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('overlay');
    await writeFile(path, '');
    await truncate(path, newLayout(SIZE).fileBytes);
    await using overlay = await openOverlay(path, 'random', await loadCore('native'));
    expect(differenceAt(await readBytes(overlay), content)).toBeUndefined();
  });

  needs('native core')('it takes the space of what was written, and gives back that of trims', async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('overlay');
    const [base, core] = [new MemoryDevice(10 * GiB), await loadCore('native')];
    await using overlay = await OverlayDevice.open(path, { base, baseName: 'zeros', core });
    const used = async (): Promise<number> => (await stat(path)).blocks * 512;
    await overlay.write(5 * GiB, randomBytes(8 * MiB, 5), { fua: true });
    expect(await used()).toBeGreaterThanOrEqual(8 * MiB);
    expect(await used()).toBeLessThan(9 * MiB);
    await overlay.trim(5 * GiB, 4 * MiB);
    await overlay.writeZeroes(5 * GiB + 4 * MiB, 4 * MiB);
    await overlay.flush();
    expect(await used()).toBeLessThan(MiB);
  });

  test('it is written as docs/FORMAT.md says', async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('overlay');
    const overlay = await openOverlay(path);
    await overlay.write(4096, new Uint8Array(4096).fill(7));
    await overlay.writeZeroes(3 * 4096, 2 * 4096);
    await overlay.flush();
    await overlay.close();
    const core = await loadCore();
    const file = await readFile(path);
    const at = (start: number, length: number): Buffer => file.subarray(start, start + length);
    expect(at(0, 18).toString('latin1')).toBe('cofferdam overlay\n');
    expect([file.readUInt16LE(18), file.readUInt32LE(20), file.readUInt32LE(24)]).toEqual([6, 1, 4096]);
    expect(file.readBigUInt64LE(32)).toBe(BigInt(SIZE));
    expect(at(40, 7).toString('latin1')).toBe('random\0');
    expect(at(480, 32)).toEqual(Buffer.from(core.hash('blake3', at(0, 480))));
    // Block 0 is the base's, 1 is data, 2 the base's, 3 and 4 are zeros.
    expect([...at(4096, 3)]).toEqual([0b10_00_01_00, 0b10, 0]);
    expect(at(4096 + 504, 8)).toEqual(Buffer.from(core.hash('xxh64', at(4096, 504))));
    const data = 8192;
    expect(file.length).toBe(data + SIZE);
    expect(at(data + 4096, 4096)).toEqual(Buffer.alloc(4096, 7));
  });
});

test('the map of a large device takes little memory, and its blocks are larger', async () => {
  const TiB = 1024 * GiB;
  const layouts = [1, 256 * GiB, TiB, 256 * TiB].map((size) => newLayout(size));
  expect(layouts.map(({ blockBytes }) => blockBytes)).toEqual([4 * KiB, 4 * KiB, 16 * KiB, 4 * MiB]);
  for (const { mapBytes } of layouts) expect(mapBytes).toBeLessThan(17 * MiB);
  expect(() => newLayout(256 * TiB + 1)).toThrow('256 TiB');

  const file: BlockDevice = new MemoryDevice(newLayout(TiB).fileBytes);
  const base = new MemoryDevice(TiB);
  await base.write(TiB - 20_000, randomBytes(20_000, 6));
  await using overlay = await OverlayDevice.on(file, { base, baseName: 'large' });
  await overlay.writeZeroes(0, TiB - 5);
  await overlay.write(TiB - 10, Uint8Array.of(1, 2, 3));
  await overlay.flush();
  const expected = Uint8Array.of(
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    1,
    2,
    3,
    0,
    0,
    ...(await readBytes(base, TiB - 5)),
  );
  expect(await readBytes(overlay, TiB - 20)).toEqual(expected);
});
