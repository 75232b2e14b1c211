import { readFile } from 'node:fs/promises';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { FaultyDevice } from '#src/devices/faulty';
import { FileDevice } from '#src/devices/file';
import { MemoryDevice } from '#src/devices/memory';
import { VolatileCacheDevice } from '#src/devices/volatile-cache';
import { realClock } from '#src/runtime/clock';
import { isCofferdamError } from '#src/runtime/errors';
import { Random } from '#src/runtime/random';
import { GiB, MiB, SECTOR_BYTES } from '#src/runtime/sizes';
import { differenceAt, randomBytes, readBytes } from '../support/bytes.js';
import { temporaryDirectory } from '../support/directory.js';
import { GatedDevice } from '../support/gated-device.js';
import { isSettled, turns } from '../support/manual-clock.js';
import { testSeed } from '../support/seed.js';
import { JitteryDevice } from './jittery-device.js';
import { deviceRequests, sendRequest, type ModelRequest } from './model.js';
import { SectorHistory } from './sector-history.js';

const sector = (mark: number): Uint8Array => new Uint8Array(SECTOR_BYTES).fill(mark);

/** The first byte of each of the first sectors. */
async function marks(device: VolatileCacheDevice, count: number): Promise<number[]> {
  const bytes = await readBytes(device, 0, count * SECTOR_BYTES);
  return Array.from({ length: count }, (_, index) => bytes[index * SECTOR_BYTES] ?? -1);
}

/** What power cuts with many seeds leave of the first sectors, each after the same preparation: all different results. */
async function leftovers(
  sectors: number,
  prepare: (device: VolatileCacheDevice) => Promise<unknown>,
): Promise<Set<string>> {
  const results = new Set<string>();
  for (let seed = 0; seed < 200; seed++) {
    await using device = new VolatileCacheDevice(new MemoryDevice(64 * SECTOR_BYTES));
    await prepare(device);
    await device.powerCut({ seed });
    results.add((await marks(device, sectors)).join());
  }
  return results;
}

test('nothing reaches the medium before a flush, and all of it with one', async () => {
  const medium = new MemoryDevice(8 * SECTOR_BYTES);
  await using device = new VolatileCacheDevice(medium);
  const bytes = randomBytes(3000, 1);
  await device.write(100, bytes);
  await device.writeZeroes(1000, 500);
  expect(differenceAt(await readBytes(medium), new Uint8Array(medium.sizeBytes))).toBeUndefined();
  await device.flush();
  bytes.fill(0, 900, 1400);
  expect(differenceAt(await readBytes(medium, 100, 3000), bytes)).toBeUndefined();
});

test('a cut may leave any version of a sector since the last flush, and no other', async () => {
  const left = await leftovers(1, async (device) => {
    await device.write(0, sector(1));
    await device.write(0, sector(2));
    await device.flush();
    for (const mark of [3, 4, 5]) await device.write(0, sector(mark));
  });
  expect([...left].sort()).toEqual(['2', '3', '4', '5']);
});

test('a cut decides about each sector on its own, whatever the order of writing', async () => {
  const left = await leftovers(2, async (device) => {
    await device.write(0, sector(1));
    await device.write(SECTOR_BYTES, sector(2));
  });
  expect([...left].sort()).toEqual(['0,0', '0,2', '1,0', '1,2']);
  const ofOneWrite = await leftovers(2, (device) =>
    device.write(0, new Uint8Array(2 * SECTOR_BYTES).fill(1)),
  );
  expect([...ofOneWrite].sort()).toEqual(['0,0', '0,1', '1,0', '1,1']);
});

test('a cut can lose and keep zeroes and trims like writes', async () => {
  for (const change of ['writeZeroes', 'trim'] as const) {
    const left = await leftovers(1, async (device) => {
      await device.write(0, sector(1), { fua: true });
      await device[change](0, SECTOR_BYTES);
    });
    // Memory that is trimmed reads as zeros.
    expect([...left].sort()).toEqual(['0', '1']);
  }
});

test('fua saves its own sectors, with what they held before, and no others', async () => {
  const left = await leftovers(3, async (device) => {
    await device.write(0, new Uint8Array(3 * SECTOR_BYTES).fill(1));
    // The first byte of sector 1 is from the older write, which was never flushed.
    await device.write(SECTOR_BYTES + 10, Uint8Array.of(2), { fua: true });
  });
  expect([...left].sort()).toEqual(['0,1,0', '0,1,1', '1,1,0', '1,1,1']);
  const zeroed = await leftovers(1, async (device) => {
    await device.write(0, sector(1), { fua: true });
    await device.writeZeroes(0, 10, { fua: true });
  });
  expect([...zeroed]).toEqual(['0']);
});

test('what fua saved can be followed by versions that are lost', async () => {
  const left = await leftovers(1, async (device) => {
    await device.write(0, sector(1));
    await device.write(0, sector(2), { fua: true });
    await device.write(0, sector(3));
  });
  expect([...left].sort()).toEqual(['2', '3']);
});

test('a flush does not promise what is written while it runs', async () => {
  const results = new Set<string>();
  for (let seed = 0; seed < 60; seed++) {
    const medium = new GatedDevice(8 * SECTOR_BYTES);
    await using device = new VolatileCacheDevice(medium);
    await device.write(0, sector(1));
    medium.shut();
    const flushed = device.flush();
    expect(await isSettled(flushed)).toBe(false);
    await device.write(0, sector(2));
    medium.open();
    await flushed;
    expect(await marks(device, 1)).toEqual([2]);
    await device.powerCut({ seed });
    results.add((await marks(device, 1)).join());
  }
  expect([...results].sort()).toEqual(['1', '2']);
});

test('flushes and fua writes of the same sectors reach the medium one after the other', async () => {
  const medium = new GatedDevice(8 * SECTOR_BYTES);
  await using device = new VolatileCacheDevice(medium);
  await device.write(0, sector(1));
  medium.shut();
  const sent = [device.flush(), device.flush(), device.write(0, sector(2), { fua: true }), device.flush()];
  await turns();
  // A second one on its way could arrive after a newer version.
  expect(medium.log).toEqual(['write 0+512']);
  medium.open();
  await Promise.all(sent);
  expect((await readBytes(medium, 0, 1))[0]).toBe(2);
});

test('a read that is slower than a flush still sees what was written before it', async () => {
  let go = (): void => {};
  const gate = new Promise<void>((resolve) => (go = resolve));
  class SlowReads extends MemoryDevice {
    override async read(offsetBytes: number, into: Uint8Array): Promise<void> {
      await super.read(offsetBytes, into);
      await gate;
    }
  }
  await using device = new VolatileCacheDevice(new SlowReads(8 * SECTOR_BYTES));
  await device.write(0, sector(1));
  const read = marks(device, 1);
  await device.flush();
  await device.write(0, sector(2));
  await device.flush();
  go();
  // The second write was sent after the read, so either is right; the medium as it was before both is not.
  expect([1, 2]).toContain((await read)[0]);
});

for (const operation of ['write', 'flush'] as const) {
  test(`when the medium fails a ${operation}, a flush fails and the next one saves everything`, async () => {
    for (let seed = 0; seed < 20; seed++) {
      const medium = new FaultyDevice(new MemoryDevice(8 * SECTOR_BYTES), { clock: realClock });
      await using device = new VolatileCacheDevice(medium);
      for (let index = 0; index < 4; index++) await device.write(index * SECTOR_BYTES, sector(index + 1));
      const rule = medium.inject({ operation, nth: 1 });
      await expect(device.flush()).rejects.toMatchObject({ code: 'INJECTED_FAULT' });
      expect(rule.hits).toBe(1);
      expect(await marks(device, 4)).toEqual([1, 2, 3, 4]);
      await device.flush();
      await device.powerCut({ seed });
      expect(await marks(device, 4)).toEqual([1, 2, 3, 4]);
    }
  });
}

test('what is in flight fails with POWER_CUT, as does what is sent until the power is back', async () => {
  const medium = new FaultyDevice(new MemoryDevice(8 * SECTOR_BYTES), { clock: realClock });
  await using device = new VolatileCacheDevice(medium);
  await device.write(0, sector(1), { fua: true });
  const rule = medium.inject({ operation: 'any', fault: { hang: true } });
  const lost = { code: 'POWER_CUT' };
  const inFlight = [
    device.read(0, new Uint8Array(1)),
    device.write(0, sector(2), { fua: true }),
    device.writeZeroes(0, 512, { fua: true }),
    device.flush(),
  ].map((request) => expect(request).rejects.toMatchObject(lost));
  await isSettled(device.flush().catch(() => {}));
  const cut = device.powerCut({ seed: 1 });
  for (const request of [
    device.read(0, new Uint8Array(1)),
    device.write(0, sector(3)),
    device.write(0, new Uint8Array(0)),
    device.trim(0, 512),
    device.allocation(0, 512),
    device.flush(),
  ]) {
    await expect(request).rejects.toMatchObject(lost);
  }
  expect(await isSettled(cut)).toBe(false);
  rule.release();
  await cut;
  await Promise.all(inFlight);
  await device.write(512, sector(9));
  await device.flush();
  await device.powerCut({ seed: 2 });
  expect((await marks(device, 2))[1]).toBe(9);
});

test('a cut in the middle of a flush tears no sector', async () => {
  for (let seed = 0; seed < 40; seed++) {
    const medium = new FaultyDevice(new MemoryDevice(8 * SECTOR_BYTES), { clock: realClock });
    await using device = new VolatileCacheDevice(medium);
    await device.write(0, new Uint8Array(100).fill(1));
    await device.write(0, sector(2));
    await device.write(SECTOR_BYTES, sector(3));
    const rule = medium.inject({
      operation: 'write',
      range: { offsetBytes: SECTOR_BYTES, lengthBytes: 1 },
      fault: { hang: true },
    });
    const flushed = expect(device.flush()).rejects.toMatchObject({ code: 'POWER_CUT' });
    await turns();
    const cut = device.powerCut({ seed });
    rule.release();
    await Promise.all([cut, flushed]);
    const versions = [sector(0), sector(0).fill(1, 0, 100), sector(2)];
    const held = await readBytes(device, 0, SECTOR_BYTES);
    expect(versions.some((version) => differenceAt(held, version) === undefined)).toBe(true);
  }
});

test('a cut stops a flush: what it had not written yet may be lost', async () => {
  const results = new Set<string>();
  for (let seed = 0; seed < 40; seed++) {
    const medium = new GatedDevice(200 * SECTOR_BYTES);
    await using device = new VolatileCacheDevice(medium);
    for (let index = 0; index < 200; index++) await device.write(index * SECTOR_BYTES, sector(1));
    medium.shut();
    const flushed = expect(device.flush()).rejects.toMatchObject({ code: 'POWER_CUT' });
    await turns();
    const cut = device.powerCut({ seed });
    medium.open();
    await Promise.all([cut, flushed]);
    results.add((await readBytes(device, 199 * SECTOR_BYTES, 1)).join());
  }
  expect([...results].sort()).toEqual(['0', '1']);
});

test('what a cut left stays, whatever happens to the medium’s own cache', async () => {
  for (let seed = 0; seed < 40; seed++) {
    const medium = new VolatileCacheDevice(new MemoryDevice(8 * SECTOR_BYTES));
    await using device = new VolatileCacheDevice(medium);
    await device.write(0, sector(1));
    await device.powerCut({ seed });
    const left = await marks(device, 8);
    await medium.powerCut({ seed: seed + 1 });
    expect(await marks(device, 8)).toEqual(left);
  }
});

test('nothing from before a cut reaches the medium after it', async () => {
  for (let seed = 0; seed < 40; seed++) {
    const medium = new JitteryDevice(64 * SECTOR_BYTES, new Random(seed));
    await using device = new VolatileCacheDevice(medium);
    const before = [
      device.write(0, new Uint8Array(64 * SECTOR_BYTES).fill(1)),
      device.flush(),
      device.write(0, new Uint8Array(64 * SECTOR_BYTES).fill(2), { fua: true }),
    ].map((request) => request.catch(() => {}));
    for (let steps = seed % 20; steps > 0; steps--) await Promise.resolve();
    await device.powerCut({ seed });
    await device.write(0, new Uint8Array(64 * SECTOR_BYTES).fill(3));
    await device.flush();
    await Promise.all(before);
    await isSettled(Promise.resolve());
    expect(differenceAt(await readBytes(medium), new Uint8Array(64 * SECTOR_BYTES).fill(3))).toBeUndefined();
  }
});

test('cuts follow each other, and a closed device has no power to cut', async () => {
  const device = new VolatileCacheDevice(new MemoryDevice(8 * SECTOR_BYTES));
  await device.write(0, sector(1));
  await Promise.all([device.powerCut({ seed: 1 }), device.powerCut({ seed: 2 })]);
  await device.write(0, sector(2));
  expect(await marks(device, 1)).toEqual([2]);
  await Promise.all([device.powerCut({ seed: 3 }), device.close()]);
  await expect(device.powerCut({ seed: 1 })).rejects.toMatchObject({ code: 'DEVICE_CLOSED' });
});

test('closing writes the cache back', async () => {
  await using directory = temporaryDirectory();
  const path = directory.file('image');
  const device = new VolatileCacheDevice(await FileDevice.open(path, { create: { sizeBytes: 4096 } }));
  await device.write(100, Uint8Array.of(1, 2, 3));
  await device.close();
  expect((await readFile(path)).subarray(99, 104)).toEqual(Buffer.of(0, 1, 2, 3, 0));
});

test('the cache is bounded: when it is full it empties itself into the medium', async () => {
  const medium = new MemoryDevice(64 * MiB);
  await using device = new VolatileCacheDevice(medium);
  const bytes = randomBytes(MiB, 1);
  for (let at = 0; at < 64 * MiB; at += MiB) await device.write(at, bytes);
  const dirtyBytes = async (): Promise<number> =>
    (await medium.allocation(0, 64 * MiB)).reduce(
      (sum, one) => sum + (one.kind === 'zero' ? one.lengthBytes : 0),
      0,
    );
  expect(await dirtyBytes()).toBeLessThanOrEqual(33 * MiB);
  await device.flush();
  expect(await dirtyBytes()).toBe(0);
  for (let n = 0; n < 5000; n++) await device.write(0, sector(n % 250));
  expect((await readBytes(medium, 0, 1))[0]).toBe(4095 % 250);
  expect((await readBytes(device, 0, 1))[0]).toBe(4999 % 250);
});

test('a cut copes with changes that span a huge device', async () => {
  await using device = new VolatileCacheDevice(new MemoryDevice(64 * GiB));
  await device.write(5 * GiB, sector(1), { fua: true });
  await device.trim(0, 64 * GiB);
  await device.writeZeroes(0, 64 * GiB);
  await device.write(5 * GiB, sector(2));
  await device.powerCut({ seed: 1 });
  expect([0, 1, 2]).toContain((await readBytes(device, 5 * GiB, 1))[0]);
});

interface CutRun {
  batches: ModelRequest[][];
  /** How many steps into the last batch the power goes out. */
  cutAfterSteps: number;
  seed: number;
}

const runs = (sizeBytes: number): fc.Arbitrary<CutRun[]> => {
  const batch = fc.array(deviceRequests(sizeBytes), { minLength: 1, maxLength: 6 }).map(apart);
  const run = fc.record<CutRun>({
    batches: fc.array(batch, { minLength: 1, maxLength: 6 }),
    cutAfterSteps: fc.oneof(fc.nat(30), fc.constant(Infinity)),
    seed: fc.nat(),
  });
  return fc.array(run, { minLength: 1, maxLength: 3 });
};

/** Keeps requests that share no sector, so that the order of the versions of a sector is known. */
function apart(requests: ModelRequest[]): ModelRequest[] {
  const taken = new Set<number>();
  return requests.filter(({ kind, offsetBytes, lengthBytes }) => {
    if (kind === 'flush') return true;
    const first = Math.floor(offsetBytes / SECTOR_BYTES);
    const sectors = Array.from(
      { length: Math.ceil((offsetBytes + lengthBytes) / SECTOR_BYTES) - first },
      (_, n) => first + n,
    );
    if (sectors.some((one) => taken.has(one))) return false;
    for (const one of sectors) taken.add(one);
    return true;
  });
}

/** Sends a request and notes what it promises once it is answered. */
async function sendAndNote(
  device: VolatileCacheDevice,
  request: ModelRequest,
  history: SectorHistory,
): Promise<void> {
  const before = history.mark();
  history.sent(request);
  const after = history.mark();
  await sendRequest(device, request);
  if (request.kind === 'flush') history.durable(before, history.allSectors());
  if ('fua' in request && request.fua) history.durable(after, history.sectorsOf(request));
}

/** Runs batches up to a power cut and returns what is left. */
async function runToCut(
  device: VolatileCacheDevice,
  run: CutRun,
  history: SectorHistory,
): Promise<Uint8Array<ArrayBuffer>> {
  const last = run.batches.length - 1;
  for (const [index, batch] of run.batches.entries()) {
    // A flush promises what was answered before it: nothing of its own batch, so it is noted first.
    const flushesFirst = [...batch].sort((a, b) => Number(b.kind === 'flush') - Number(a.kind === 'flush'));
    const sent = Promise.all(
      flushesFirst.map((request) =>
        sendAndNote(device, request, history).catch((error: unknown) => {
          if (index !== last || !isCofferdamError(error, 'POWER_CUT')) throw error;
        }),
      ),
    );
    if (index < last || run.cutAfterSteps === Infinity) await sent;
    else for (let steps = run.cutAfterSteps; steps > 0; steps--) await Promise.resolve();
    if (index === last) await device.powerCut({ seed: run.seed });
    await sent;
  }
  return await readBytes(device);
}

// On the small one nearly all requests share sectors, on the other they spread.
for (const sizeBytes of [1800, 20_001]) {
  test(`after a cut each sector is what was made durable or later, and a seed repeats it, ${sizeBytes} bytes`, async () => {
    await fc.assert(
      fc.asyncProperty(runs(sizeBytes), fc.nat(), async (cuts, seed) => {
        const open = (): VolatileCacheDevice =>
          new VolatileCacheDevice(new JitteryDevice(sizeBytes, new Random(seed)));
        await using one = open();
        await using other = open();
        let content = new Uint8Array(sizeBytes);
        for (const run of cuts) {
          const history = new SectorHistory(content);
          content = await runToCut(one, run, history);
          expect(history.wrongSectors(content)).toEqual([]);
          const again = await runToCut(other, run, new SectorHistory(content));
          expect(differenceAt(again, content)).toBeUndefined();
        }
      }),
      { seed: testSeed(), numRuns: sizeBytes < 2000 ? 1000 : 100 },
    );
  });
}
