import { expect, test } from 'vitest';
import { SharedBitmap } from '#src/core/bitmap';
import { Random } from '#src/runtime/random';
import { testSeed } from '../support/seed.js';

test('a bitmap does what a set of numbers does', () => {
  const random = new Random(testSeed());
  for (let round = 0; round < 200; round++) {
    const size = 1 + random.below(200);
    const bitmap = new SharedBitmap(size);
    const model = new Set<number>();
    for (let step = 0; step < 20; step++) {
      const bit = random.below(size);
      if (random.chance(0.5)) {
        expect(bitmap.add(bit)).toBe(!model.has(bit));
        model.add(bit);
      } else {
        const to = bit + random.below(size - bit + 1);
        bitmap.addRange(bit, to);
        for (let i = bit; i < to; i++) model.add(i);
      }
    }
    const members = Array.from({ length: size }, (_, i) => i).filter((bit) => bitmap.has(bit));
    expect(members).toEqual([...model].sort((a, b) => a - b));
    expect(bitmap.count()).toBe(model.size);
    const inverted = bitmap.inverted();
    expect(members.some((bit) => inverted.has(bit))).toBe(false);
    expect(inverted.count()).toBe(size - model.size);
  }
});

test('bits past 2^31 and 2^32 are bits of their own', () => {
  // 512 MiB of address space, of which only the touched pages become memory.
  const bitmap = new SharedBitmap(2 ** 32 + 64);
  bitmap.add(2 ** 32 + 5);
  bitmap.addRange(2 ** 31 + 30, 2 ** 31 + 34);
  expect(bitmap.has(2 ** 32 + 5)).toBe(true);
  expect(bitmap.has(5)).toBe(false);
  const around = Array.from({ length: 8 }, (_, i) => bitmap.has(2 ** 31 + 28 + i));
  expect(around).toEqual([false, false, true, true, true, true, false, false]);
});
