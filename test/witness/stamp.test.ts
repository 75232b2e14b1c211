import fc from 'fast-check';
import { expect, test } from 'vitest';
import { readStamp, stampedSectors, writeStamp, type Stamp } from '#src/witness/stamp';
import { testSeed } from '../support/seed.js';

const seed = testSeed();

const uint32 = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const uint53 = fc.maxSafeNat();
const stamps: fc.Arbitrary<Stamp> = fc.record({
  run: uint53,
  sector: uint53,
  device: uint32,
  writer: uint32,
  sequence: uint32,
});

function sectorWith(stamp: Stamp): Uint8Array {
  const sector = new Uint8Array(512);
  writeStamp(sector, stamp);
  return sector;
}

test('a stamp is read back as it was written', () => {
  fc.assert(
    fc.property(stamps, (stamp) => {
      expect(readStamp(sectorWith(stamp))).toEqual(stamp);
    }),
    { seed },
  );
});

test('a stamp is written within its sector, wherever that begins', () => {
  const stamp = { run: 1, sector: 2, device: 3, writer: 4, sequence: 5 };
  const bytes = new Uint8Array(514).fill(0xee);
  writeStamp(bytes.subarray(1, 513), stamp);
  expect([bytes[0], bytes[513]]).toEqual([0xee, 0xee]);
  expect(readStamp(bytes.subarray(1, 513))).toEqual(stamp);
});

test('every single flipped bit makes a stamp garbage', () => {
  fc.assert(
    fc.property(stamps, (stamp) => {
      const sector = sectorWith(stamp);
      for (let bit = 0; bit < 512 * 8; bit++) {
        const index = bit >> 3;
        const byte = sector[index] ?? 0;
        sector[index] = byte ^ (1 << (bit & 7));
        expect(readStamp(sector), `bit ${bit} flipped`).toBe('garbage');
        sector[index] = byte;
      }
      expect(readStamp(sector)).toEqual(stamp);
    }),
    { seed, numRuns: 3 },
  );
});

test('a sector torn between two stamps is garbage, wherever it is torn', () => {
  const older = sectorWith({ run: 9, sector: 7, device: 0, writer: 1, sequence: 20 });
  const newer = sectorWith({ run: 9, sector: 7, device: 0, writer: 1, sequence: 21 });
  const firstDifference = older.findIndex((byte, index) => byte !== newer[index]);
  const lastDifference = older.findLastIndex((byte, index) => byte !== newer[index]);
  expect(lastDifference - firstDifference).toBeGreaterThan(400);
  for (let at = firstDifference + 1; at <= lastDifference; at++) {
    const torn = Uint8Array.from([...newer.subarray(0, at), ...older.subarray(at)]);
    expect(readStamp(torn), `torn at byte ${at}`).toBe('garbage');
  }
});

test('only a sector of 512 zeros is zero', () => {
  const sector = new Uint8Array(512);
  expect(readStamp(sector)).toBe('zero');
  for (const index of [0, 1, 255, 511]) {
    sector[index] = 1;
    expect(readStamp(sector)).toBe('garbage');
    sector[index] = 0;
  }
});

test('each sector of a write carries its own place', () => {
  const bytes = stampedSectors({ run: 1, sector: 100, device: 2, writer: 3, sequence: 4 }, 3);
  const read = [0, 1, 2].map((index) => readStamp(bytes.subarray(index * 512, (index + 1) * 512)));
  expect(read).toEqual(
    [100, 101, 102].map((sector) => ({ run: 1, sector, device: 2, writer: 3, sequence: 4 })),
  );
});

test('the filler of two stamps that differ in one field is different', () => {
  const stamp = { run: 1, sector: 2, device: 3, writer: 4, sequence: 5 };
  const filler = (changed: Partial<Stamp>): string =>
    Buffer.from(sectorWith({ ...stamp, ...changed })).toString('hex', 36, 508);
  const fillers = [{}, { run: 2 }, { sector: 3 }, { device: 4 }, { writer: 5 }, { sequence: 6 }].map(filler);
  expect(new Set(fillers).size).toBe(6);
});
