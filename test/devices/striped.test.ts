import { expect, test } from 'vitest';
import { FaultyDevice } from '#src/devices/faulty';
import { MemoryDevice } from '#src/devices/memory';
import { StripedDevice } from '#src/devices/striped';
import { realClock } from '#src/runtime/clock';
import { differenceAt, randomBytes, readBytes } from '../support/bytes.js';
import { GatedDevice } from '../support/gated-device.js';
import { isSettled } from '../support/manual-clock.js';

const KiB4 = 4096;

test('stripe s is stripe floor(s / n) of child s mod n', async () => {
  const children = [0, 1, 2].map(() => new MemoryDevice(4 * KiB4));
  await using device = new StripedDevice(children, { stripeBytes: KiB4 });
  const bytes = randomBytes(12 * KiB4, 1);
  await device.write(0, bytes);
  for (let stripe = 0; stripe < 12; stripe++) {
    const child = children[stripe % 3];
    const found = child && (await readBytes(child, Math.floor(stripe / 3) * KiB4, KiB4));
    expect(found && differenceAt(found, bytes.subarray(stripe * KiB4, (stripe + 1) * KiB4))).toBeUndefined();
    expect(found).toHaveLength(KiB4);
  }
});

test('its size is what the smallest child has whole stripes for, times the children', async () => {
  const sizes = [4 * KiB4, 3 * KiB4 + 4095, 10 * KiB4];
  const children = sizes.map((size) => new MemoryDevice(size));
  await using device = new StripedDevice(children, { stripeBytes: KiB4 });
  expect(device.sizeBytes).toBe(9 * KiB4);
});

test('a request becomes one request per child, all at the same time', async () => {
  const children = [0, 1, 2].map(() => new GatedDevice(100 * KiB4));
  await using device = new StripedDevice(children, { stripeBytes: KiB4 });
  for (const child of children) child.shut();
  const bytes = randomBytes(50 * KiB4, 2);
  const written = device.write(100, bytes);
  const logs = (): string[][] => children.map((child) => child.log.splice(0));
  // Bytes 100 to 204900: stripes 0 to 50, the first of child 0 and the last of child 2 only in part.
  const ranges = [
    [100, 17 * KiB4 - 100],
    [0, 17 * KiB4],
    [0, 16 * KiB4 + 100],
  ];
  expect(logs()).toEqual(ranges.map(([offset, length]) => [`write ${offset}+${length}`]));
  children[0]?.open();
  children[1]?.open();
  expect(await isSettled(written)).toBe(false);
  children[2]?.open();
  await written;
  const found = await readBytes(device, 100, bytes.length);
  expect(logs()).toEqual(ranges.map(([offset, length]) => [`read ${offset}+${length}`]));
  expect(differenceAt(found, bytes)).toBeUndefined();
});

test('its allocation map is that of the children, put together', async () => {
  const stripeBytes = 64 * 1024;
  const children = [0, 1].map(() => new MemoryDevice(4 * stripeBytes));
  await using device = new StripedDevice(children, { stripeBytes });
  await device.write(2 * stripeBytes, new Uint8Array(2 * stripeBytes).fill(1));
  await device.write(5 * stripeBytes, Uint8Array.of(1));
  expect(await device.allocation(stripeBytes, 6 * stripeBytes)).toEqual([
    { offsetBytes: stripeBytes, lengthBytes: stripeBytes, kind: 'zero' },
    { offsetBytes: 2 * stripeBytes, lengthBytes: 2 * stripeBytes, kind: 'data' },
    { offsetBytes: 4 * stripeBytes, lengthBytes: stripeBytes, kind: 'zero' },
    { offsetBytes: 5 * stripeBytes, lengthBytes: stripeBytes, kind: 'data' },
    { offsetBytes: 6 * stripeBytes, lengthBytes: stripeBytes, kind: 'zero' },
  ]);
});

test('a failed request is answered when no child is busy with it any more', async () => {
  const slow = new GatedDevice(16 * KiB4);
  const faulty = new FaultyDevice(new MemoryDevice(16 * KiB4), { clock: realClock });
  await using device = new StripedDevice([faulty, slow], { stripeBytes: KiB4 });
  faulty.inject({ operation: 'write' });
  slow.shut();
  const written = device.write(0, new Uint8Array(2 * KiB4));
  expect(await isSettled(written)).toBe(false);
  slow.open();
  await expect(written).rejects.toMatchObject({ code: 'INJECTED_FAULT' });
});

test('a flush reaches every child, and fails if one does', async () => {
  const children = [0, 1, 2].map(() => new FaultyDevice(new MemoryDevice(KiB4), { clock: realClock }));
  await using device = new StripedDevice(children, { stripeBytes: KiB4 });
  for (const child of children) {
    using rule = child.inject({ operation: 'flush' });
    await expect(device.flush()).rejects.toMatchObject({ code: 'INJECTED_FAULT' });
    expect(rule.hits).toBe(1);
  }
  await device.flush();
});

test('it closes its children', async () => {
  const children = [0, 1].map(() => new MemoryDevice(KiB4));
  await new StripedDevice(children, { stripeBytes: KiB4 }).close();
  for (const child of children) await expect(child.flush()).rejects.toMatchObject({ code: 'DEVICE_CLOSED' });
});

test('no children, the same child twice and odd stripes are refused', () => {
  const child = new MemoryDevice(KiB4);
  const bad = expect.objectContaining({ code: 'BAD_ARGUMENT' }) as Error;
  expect(() => new StripedDevice([], { stripeBytes: 512 })).toThrow(bad);
  expect(() => new StripedDevice([child, child], { stripeBytes: 512 })).toThrow(bad);
  for (const stripeBytes of [0, -512, 511, 513, NaN, Infinity]) {
    expect(() => new StripedDevice([child], { stripeBytes })).toThrow(bad);
  }
});
