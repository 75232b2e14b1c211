import { expect, test } from 'vitest';
import type { Batch } from '#src/core/core';
import { WriteQueue } from '#src/devices/write-queue';
import { KiB, MiB } from '#src/runtime/sizes';
import { turns } from '../support/manual-clock.js';

/** A medium that takes one call when the test lets it, and tells what it was given. */
class Medium {
  readonly calls: number[][] = [];
  readonly bad = new Set<number>();
  readonly #finish: (() => void)[] = [];

  readonly write = async (batches: readonly Batch[]): Promise<void> => {
    const offsets = batches.map(({ places }) => places[0] ?? NaN);
    this.calls.push(offsets);
    await new Promise<void>((resolve) => this.#finish.push(resolve));
    const bad = offsets.find((offset) => this.bad.has(offset));
    if (bad !== undefined) throw new Error(`bad sector ${bad}`);
  };

  get running(): number {
    return this.#finish.length;
  }

  async finish(): Promise<void> {
    for (const finish of this.#finish.splice(0)) finish();
    await turns();
  }
}

const batch = (offset: number, length = 4 * KiB): Batch[] => [
  { bytes: new Uint8Array(length), places: Float64Array.of(offset, 0, length) },
];

test('one call runs at a time, and what comes meanwhile goes together in the next, in order', async () => {
  const medium = new Medium();
  const queue = new WriteQueue(medium.write);
  const writes = [1, 2, 3, 4].map((offset) => queue.add(batch(offset)));
  await turns();
  expect(medium.calls).toEqual([[1]]);
  await medium.finish();
  expect(medium.calls).toEqual([[1], [2, 3, 4]]);
  expect(medium.running).toBe(1);
  await medium.finish();
  await Promise.all(writes);
  void queue.add(batch(5));
  expect(medium.calls.at(-1)).toEqual([5]);
});

test('no more goes together than the first can wait for', async () => {
  const medium = new Medium();
  const queue = new WriteQueue(medium.write);
  for (const offset of [1, 2, 3, 4, 5, 6]) void queue.add(batch(offset, 256 * KiB));
  void queue.add(batch(7, 3 * MiB));
  for (let i = 0; i < 5; i++) {
    await turns();
    await medium.finish();
  }
  expect(medium.calls).toEqual([[1], [2, 3, 4, 5], [6], [7]]);
});

test('when a call fails each write in it is repeated alone, and fails or succeeds by itself', async () => {
  const medium = new Medium();
  medium.bad.add(3);
  const queue = new WriteQueue(medium.write);
  const outcomes = Promise.allSettled([1, 2, 3, 4].map((offset) => queue.add(batch(offset))));
  for (let i = 0; i < 6; i++) {
    await turns();
    await medium.finish();
  }
  expect((await outcomes).map(({ status }) => status)).toEqual([
    'fulfilled',
    'fulfilled',
    'rejected',
    'fulfilled',
  ]);
  expect(medium.calls).toEqual([[1], [2, 3, 4], [2], [3], [4]]);
});
