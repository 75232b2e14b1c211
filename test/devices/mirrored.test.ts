import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { BlockDevice } from '#src/devices/block-device';
import { FaultyDevice } from '#src/devices/faulty';
import { MemoryDevice } from '#src/devices/memory';
import { MirroredDevice } from '#src/devices/mirrored';
import { realClock } from '#src/runtime/clock';
import { Random } from '#src/runtime/random';
import { SECTOR_BYTES } from '#src/runtime/sizes';
import { differenceAt, randomBytes, readBytes } from '../support/bytes.js';
import { GatedDevice } from '../support/gated-device.js';
import { isSettled, turns } from '../support/manual-clock.js';
import { testSeed } from '../support/seed.js';
import { JitteryDevice } from './jittery-device.js';

const sectorCount = 28;
const sizeBytes = sectorCount * SECTOR_BYTES;

function faultyLegs(count: number): FaultyDevice[] {
  return Array.from(
    { length: count },
    () => new FaultyDevice(new MemoryDevice(sizeBytes), { clock: realClock }),
  );
}

const health = (mirror: MirroredDevice): boolean[] => mirror.legs.map((leg) => leg.healthy);

test('every leg gets every write, and its size is that of the smallest', async () => {
  const legs = [new MemoryDevice(9000), new MemoryDevice(8000), new MemoryDevice(10_000)];
  await using mirror = new MirroredDevice(legs);
  expect(mirror.sizeBytes).toBe(8000);
  const bytes = randomBytes(8000, 1);
  await mirror.write(0, bytes);
  await mirror.writeZeroes(100, 200);
  bytes.fill(0, 100, 300);
  for (const leg of legs) expect(differenceAt(await readBytes(leg, 0, 8000), bytes)).toBeUndefined();
});

test('a write is answered when all legs have it', async () => {
  const slow = new GatedDevice(sizeBytes);
  await using mirror = new MirroredDevice([new MemoryDevice(sizeBytes), slow]);
  slow.shut();
  const written = mirror.write(0, Uint8Array.of(1));
  expect(await isSettled(written)).toBe(false);
  slow.open();
  await written;
});

test('a read error is answered by another leg, and drops none', async () => {
  const [first, second] = faultyLegs(2) as [FaultyDevice, FaultyDevice];
  await using mirror = new MirroredDevice([first, second]);
  const bytes = randomBytes(sizeBytes, 2);
  await mirror.write(0, bytes);
  {
    using _rule = first.inject({ operation: 'read' });
    expect(differenceAt(await readBytes(mirror), bytes)).toBeUndefined();
    using _other = second.inject({ operation: 'read', fault: { error: 'DEVICE_IO' } });
    await expect(readBytes(mirror)).rejects.toMatchObject({ code: 'DEVICE_IO' });
  }
  expect(differenceAt(await readBytes(mirror), bytes)).toBeUndefined();
  expect(health(mirror)).toEqual([true, true]);
});

for (const operation of ['write', 'flush', 'writeZeroes', 'trim'] as const) {
  test(`a leg whose ${operation} failed is dropped and never used again`, async () => {
    const legs = faultyLegs(3) as [FaultyDevice, FaultyDevice, FaultyDevice];
    await using mirror = new MirroredDevice(legs);
    await mirror.write(0, new Uint8Array(1024).fill(1));
    // A mirror trims by writing zeros.
    const rule = legs[0].inject({ operation: operation === 'trim' ? 'writeZeroes' : operation, nth: 1 });
    if (operation === 'write') await mirror.write(0, new Uint8Array(1024).fill(2));
    else if (operation === 'flush') await mirror.flush();
    else await mirror[operation](0, 1024);
    expect(rule.hits).toBe(1);
    expect(health(mirror)).toEqual([false, true, true]);
    expect(mirror.legs[0]?.failure).toMatchObject({ code: 'INJECTED_FAULT' });
    // The leg is well again, but it missed something.
    const used = legs[0].inject({ operation: 'any' });
    expect(await readBytes(mirror, 0, 1024)).toEqual(await readBytes(legs[1], 0, 1024));
    await mirror.write(0, Uint8Array.of(3));
    await mirror.flush();
    await mirror.allocation(0, 1024);
    expect(used.hits).toBe(0);
  });
}

test('the last leg stays: its failures are the mirror’s', async () => {
  const legs = faultyLegs(3) as [FaultyDevice, FaultyDevice, FaultyDevice];
  await using mirror = new MirroredDevice(legs);
  await mirror.write(0, new Uint8Array(1024).fill(1));
  {
    using _first = legs[0].inject({ operation: 'write', fault: { error: 'DEVICE_FULL' } });
    using _second = legs[1].inject({ operation: 'write' });
    using _third = legs[2].inject({ operation: 'write', fault: { tornWrite: { sectors: 1 } } });
    await expect(mirror.write(0, new Uint8Array(1024).fill(2))).rejects.toMatchObject({
      code: 'DEVICE_FULL',
    });
    // The legs may differ now, so one of them alone is right.
    expect(health(mirror)).toEqual([true, false, false]);
    await expect(mirror.write(0, new Uint8Array(1024).fill(2))).rejects.toMatchObject({
      code: 'DEVICE_FULL',
    });
  }
  expect(await readBytes(mirror, 0, 1024)).toEqual(new Uint8Array(1024).fill(1));
  await mirror.write(0, new Uint8Array(1024).fill(3));
  expect(await readBytes(mirror, 0, 1024)).toEqual(new Uint8Array(1024).fill(3));
});

test('a write that succeeded only on a leg dropped meanwhile has failed', async () => {
  const slow = new GatedDevice(sizeBytes);
  const first = new FaultyDevice(slow, { clock: realClock });
  const [second] = faultyLegs(1) as [FaultyDevice];
  await using mirror = new MirroredDevice([first, second]);
  slow.shut();
  second.inject({ operation: 'write', nth: 1 });
  const onFirstAlone = mirror.write(0, Uint8Array.of(1)).catch((error: unknown) => error);
  await turns();
  first.inject({ operation: 'write', nth: 1 });
  await mirror.write(4096, Uint8Array.of(2));
  expect(health(mirror)).toEqual([false, true]);
  slow.open();
  expect(await onFirstAlone).toMatchObject({ code: 'INJECTED_FAULT' });
  expect(health(mirror)).toEqual([false, true]);
});

for (const cause of ['cannot read', 'was dropped'] as const) {
  test(`what one read saw the next one sees, though the first leg ${cause} in between`, async () => {
    const [first] = faultyLegs(1) as [FaultyDevice];
    const slow = new GatedDevice(sizeBytes);
    await using mirror = new MirroredDevice([first, slow]);
    slow.shut();
    const written = mirror.write(0, Uint8Array.of(1));
    await turns();
    expect(await readBytes(mirror, 0, 1)).toEqual(Uint8Array.of(1));
    if (cause === 'cannot read') {
      first.inject({ operation: 'read' });
    } else {
      using _rule = first.inject({ operation: 'flush', nth: 1 });
      await mirror.flush();
      expect(health(mirror)).toEqual([false, true]);
    }
    const again = readBytes(mirror, 0, 1);
    await turns();
    slow.open();
    expect(await again).toEqual(Uint8Array.of(1));
    await Promise.allSettled([written]);
  });
}

interface SectorRequest {
  first: number;
  count: number;
  kind: 'write' | 'zeroes' | 'trim';
}

const batches = fc.array(
  fc.record({
    requests: fc.array(
      fc.record({
        first: fc.nat(15),
        count: fc.integer({ min: 1, max: 12 }),
        kind: fc.constantFrom('write' as const, 'write' as const, 'zeroes' as const, 'trim' as const),
      }),
      { minLength: 1, maxLength: 6 },
    ),
    /** A leg, and which of its next requests fails. */
    fault: fc.option(fc.record({ leg: fc.nat(2), nth: fc.integer({ min: 1, max: 4 }) }), { freq: 6 }),
  }),
  { minLength: 1, maxLength: 6 },
);

test('whatever overlaps and fails, all healthy legs hold the same, and it is what was written', async () => {
  let dropped = 0;
  await fc.assert(
    fc.asyncProperty(batches, fc.nat(), async (run, seed) => {
      const random = new Random(seed);
      const legs = [0, 1, 2].map(
        () => new FaultyDevice(new JitteryDevice(sizeBytes, random.fork()), { clock: realClock }),
      );
      await using mirror = new MirroredDevice(legs);
      let marks = Array.from({ length: sectorCount }, () => 0);
      let nextMark = 1;
      for (const { requests, fault } of run) {
        const rule = fault ? legs[fault.leg]?.inject({ operation: 'any', nth: fault.nth }) : undefined;
        const sent = requests.map((request) => ({
          request,
          mark: request.kind === 'write' ? nextMark++ % 250 : 0,
        }));
        const outcomes = await Promise.allSettled(
          sent.map(({ request, mark }) => send(mirror, request, mark)),
        );
        rule?.release();
        const healthy = mirror.legs.filter((leg) => leg.healthy);
        expect(healthy.length).toBeGreaterThan(0);
        dropped += 3 - healthy.length;
        const contents = await Promise.all(healthy.map((leg) => readBytes(leg.device)));
        for (const content of contents) expect(differenceAt(content, contents[0] ?? content)).toBeUndefined();
        const found = await readBytes(mirror);
        expect(differenceAt(found, contents[0] ?? found)).toBeUndefined();
        const before = marks;
        marks = marksOf(found);
        const wrong = marks.filter((mark, sector) => {
          const touching = sent
            .map(({ request, mark: written }, index) => ({ ...request, written, outcome: outcomes[index] }))
            .filter(({ first, count }) => first <= sector && sector < first + count);
          const untouched = touching.every(({ outcome }) => outcome?.status === 'rejected');
          return !touching.some(({ written }) => written === mark) && !(untouched && mark === before[sector]);
        });
        expect(wrong).toEqual([]);
      }
    }),
    { seed: testSeed(), numRuns: 200 },
  );
  // Otherwise nothing was tested but fair weather.
  expect(dropped).toBeGreaterThan(0);
});

/** The mark in each sector, or -1 where a sector holds more than one. */
function marksOf(bytes: Uint8Array): number[] {
  return Array.from({ length: sectorCount }, (_, sector) => {
    const held = bytes.subarray(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES);
    const mark = held[0] ?? -1;
    return differenceAt(held, new Uint8Array(SECTOR_BYTES).fill(mark)) === undefined ? mark : -1;
  });
}

async function send(device: BlockDevice, { first, count, kind }: SectorRequest, mark: number): Promise<void> {
  const [offsetBytes, lengthBytes] = [first * SECTOR_BYTES, count * SECTOR_BYTES];
  if (kind === 'write') await device.write(offsetBytes, new Uint8Array(lengthBytes).fill(mark));
  else if (kind === 'zeroes') await device.writeZeroes(offsetBytes, lengthBytes);
  else await device.trim(offsetBytes, lengthBytes);
}

test('no legs, and the same leg twice, are refused', () => {
  const leg = new MemoryDevice(512);
  const bad = expect.objectContaining({ code: 'BAD_ARGUMENT' }) as Error;
  expect(() => new MirroredDevice([])).toThrow(bad);
  expect(() => new MirroredDevice([leg, leg])).toThrow(bad);
});
