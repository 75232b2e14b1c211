import { readSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect } from 'vitest';
import type { BlockDevice, Extent } from '#src/devices/block-device';
import { SECTOR_BYTES } from '#src/runtime/sizes';
import { differenceAt, randomBytes, readBytes } from '../support/bytes.js';
import type { ConditionalTest } from '../support/needs.js';
import { testSeed } from '../support/seed.js';
import { checkAgainstModel, deviceRuns } from './model.js';

/** A device with all that it stands on, which goes away with it. */
export interface Subject extends AsyncDisposable {
  readonly device: BlockDevice;
}

export interface DeviceKind {
  readonly name: string;
  /** The size to test, at least 128 KiB. */
  readonly sizeBytes: number;
  /** Whether it can be of any size at all, down to 0. */
  readonly anySize?: boolean;
  /** How many runs of random requests; by default 30. */
  readonly modelRuns?: number;
  /** Vitest's `test`, or what `needs` made of it. */
  readonly test: ConditionalTest;
  /** Opens a fresh device that reads as zeros. */
  open(sizeBytes: number): Promise<Subject>;
  /** The same, read-only. */
  openReadOnly?(sizeBytes: number): Promise<Subject>;
}

type Requests = Record<
  string,
  (device: BlockDevice, offsetBytes: number, lengthBytes: number) => Promise<unknown>
>;

const changes: Requests = {
  write: (device, offsetBytes, lengthBytes) => device.write(offsetBytes, new Uint8Array(lengthBytes).fill(7)),
  'write with fua': (device, offsetBytes, lengthBytes) =>
    device.write(offsetBytes, new Uint8Array(lengthBytes).fill(7), { fua: true }),
  trim: (device, offsetBytes, lengthBytes) => device.trim(offsetBytes, lengthBytes),
  'write zeroes': (device, offsetBytes, lengthBytes) => device.writeZeroes(offsetBytes, lengthBytes),
};

const requests: Requests = {
  ...changes,
  read: (device, offsetBytes, lengthBytes) => device.read(offsetBytes, new Uint8Array(lengthBytes)),
  allocation: (device, offsetBytes, lengthBytes) => device.allocation(offsetBytes, lengthBytes),
};

/** Those that take a length, and not bytes of that length. */
const ranged = ['trim', 'write zeroes', 'allocation'].flatMap((name) => requests[name] ?? []);

/** The contract of src/devices/block-device.ts, point by point, for one kind of device. */
export function testConformance(kind: DeviceKind): void {
  const { test, sizeBytes } = kind;
  const open = (): Promise<Subject> => kind.open(sizeBytes);

  describe(kind.name, () => {
    test('it has the size that was asked for and reads as zeros at first', async () => {
      await using subject = await open();
      expect(subject.device.sizeBytes).toBe(sizeBytes);
      expect(differenceAt(await readBytes(subject.device), new Uint8Array(sizeBytes))).toBeUndefined();
    });

    test('what was written is read back, and nothing beside it changes', async () => {
      await using subject = await open();
      const { device } = subject;
      const expected = randomBytes(sizeBytes, 1);
      await device.write(0, expected);
      const places = [
        [0, 1],
        [0, 4096],
        [511, 2],
        [4095, 4098],
        [65_536 - 700, 1400],
        [10_000, 100_000],
        [sizeBytes - 1, 1],
        [sizeBytes - 5000, 5000],
      ] as const;
      for (const [index, [offsetBytes, lengthBytes]] of places.entries()) {
        const bytes = randomBytes(lengthBytes, 10 + index);
        await device.write(offsetBytes, bytes, { fua: index % 2 === 1 });
        expected.set(bytes, offsetBytes);
        expect(differenceAt(await readBytes(device, offsetBytes, lengthBytes), bytes)).toBeUndefined();
      }
      expect(differenceAt(await readBytes(device), expected)).toBeUndefined();
      await device.flush();
      expect(differenceAt(await readBytes(device), expected)).toBeUndefined();
    });

    test('reads and writes keep to the view they are given', async () => {
      await using subject = await open();
      const { device } = subject;
      const surrounding = randomBytes(30_000, 2);
      await device.write(5000, surrounding.subarray(1000, 21_000));
      expect(
        differenceAt(await readBytes(device, 5000, 20_000), surrounding.subarray(1000, 21_000)),
      ).toBeUndefined();
      const into = new Uint8Array(30_000).fill(0xee);
      await device.read(5000, into.subarray(1000, 21_000));
      const expected = new Uint8Array(30_000).fill(0xee);
      expected.set(surrounding.subarray(1000, 21_000), 1000);
      expect(differenceAt(into, expected)).toBeUndefined();
    });

    test('the bytes of a write are the caller’s again once it is answered', async () => {
      await using subject = await open();
      const { device } = subject;
      const bytes = randomBytes(70_000, 3);
      const expected = bytes.slice();
      await device.write(3000, bytes);
      bytes.fill(0);
      await device.flush();
      expect(differenceAt(await readBytes(device, 3000, 70_000), expected)).toBeUndefined();
    });

    test('requests at the same time that share sectors but no bytes do not disturb each other', async () => {
      await using subject = await open();
      const { device } = subject;
      const expected = randomBytes(sizeBytes, 4);
      const step = 300; // Not a sector, so that nearly every sector is shared.
      const writes: Promise<void>[] = [];
      for (let at = 0; at < 60_000; at += step) {
        writes.push(device.write(at, expected.subarray(at, at + step), { fua: at % (7 * step) === 0 }));
        if (at % (20 * step) === 0) writes.push(device.flush());
      }
      await Promise.all(writes);
      expect(differenceAt(await readBytes(device, 0, 60_000), expected.subarray(0, 60_000))).toBeUndefined();
    });

    test('of two writes at the same time each sector holds one or the other', async () => {
      await using subject = await open();
      const { device } = subject;
      for (let round = 0; round < 20; round++) {
        const [one, other] = [2 * round + 1, 2 * round + 2];
        await Promise.all([
          device.write(0, new Uint8Array(64 * SECTOR_BYTES).fill(one)),
          device.write(16 * SECTOR_BYTES, new Uint8Array(64 * SECTOR_BYTES).fill(other)),
        ]);
        const bytes = await readBytes(device, 0, 80 * SECTOR_BYTES);
        for (let sector = 0; sector < 80; sector++) {
          const held = bytes.subarray(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES);
          const allowed = sector < 16 ? [one] : sector < 64 ? [one, other] : [other];
          expect(allowed).toContain(held[0]);
          expect(differenceAt(held, new Uint8Array(SECTOR_BYTES).fill(held[0] ?? 0))).toBeUndefined();
        }
      }
    });

    test('a zeroed range reads as zeros, and nothing beside it changes', async () => {
      await using subject = await open();
      const { device } = subject;
      const expected = randomBytes(sizeBytes, 5);
      await device.write(0, expected);
      const options = [{}, { mayTrim: false }, { fua: true }, { mayTrim: false, fua: true }];
      const places = [
        [100, 200],
        [4096, 8192],
        [70_001, 40_003],
        [sizeBytes - 10_000, 10_000],
      ] as const;
      for (const [index, [offsetBytes, lengthBytes]] of places.entries()) {
        await device.writeZeroes(offsetBytes, lengthBytes, options[index]);
        expected.fill(0, offsetBytes, offsetBytes + lengthBytes);
        expect(differenceAt(await readBytes(device), expected)).toBeUndefined();
      }
    });

    test('trimming changes nothing beside its range, which can be written again', async () => {
      await using subject = await open();
      const { device } = subject;
      const expected = randomBytes(sizeBytes, 6);
      await device.write(0, expected);
      for (const [offsetBytes, lengthBytes] of [
        [4096, 65_536],
        [80_001, 20_003],
      ] as const) {
        await device.trim(offsetBytes, lengthBytes);
        await device.flush();
        await device.read(offsetBytes, expected.subarray(offsetBytes, offsetBytes + lengthBytes)); // Anything will do.
        expect(differenceAt(await readBytes(device), expected)).toBeUndefined();
        const bytes = randomBytes(lengthBytes, offsetBytes);
        await device.write(offsetBytes, bytes);
        expected.set(bytes, offsetBytes);
        await device.flush();
        expect(differenceAt(await readBytes(device), expected)).toBeUndefined();
      }
    });

    test('a request of zero bytes succeeds and does nothing, at the end too', async () => {
      await using subject = await open();
      const { device } = subject;
      const expected = randomBytes(sizeBytes, 7);
      await device.write(0, expected);
      for (const offsetBytes of [0, 513, sizeBytes]) {
        for (const request of Object.values(requests)) await request(device, offsetBytes, 0);
        expect(await device.allocation(offsetBytes, 0)).toEqual([]);
      }
      expect(differenceAt(await readBytes(device), expected)).toBeUndefined();
    });

    for (const [name, request] of Object.entries(requests)) {
      test(`${name}: past the end it is refused before it touches anything`, async () => {
        await using subject = await open();
        const { device } = subject;
        const expected = randomBytes(sizeBytes, 8);
        await device.write(0, expected);
        const past = [
          [sizeBytes - 1, 2],
          [sizeBytes - 4096, 4097],
          [sizeBytes, 1],
          [sizeBytes + 1, 0],
          [0, sizeBytes + 1],
          [Number.MAX_SAFE_INTEGER, 1],
        ] as const;
        for (const [offsetBytes, lengthBytes] of past) {
          await expect(request(device, offsetBytes, lengthBytes)).rejects.toMatchObject({
            code: 'OUT_OF_RANGE',
          });
        }
        expect(differenceAt(await readBytes(device), expected)).toBeUndefined();
      });

      test(`${name}: offsets that are not whole numbers below 2^53 are refused`, async () => {
        await using subject = await open();
        for (const offsetBytes of [-1, 0.5, NaN, Infinity, -0.5, 2 ** 53, -(2 ** 53), 2 ** 64]) {
          await expect(request(subject.device, offsetBytes, 1)).rejects.toMatchObject({
            code: 'BAD_ARGUMENT',
          });
        }
      });
    }

    test('lengths that are not whole numbers below 2^53, or wrap round, are refused', async () => {
      await using subject = await open();
      const { device } = subject;
      for (const lengthBytes of [-1, 0.5, NaN, Infinity, 2 ** 53]) {
        for (const request of ranged) {
          await expect(request(device, 0, lengthBytes)).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
        }
      }
      for (const lengthBytes of [Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER - 511]) {
        for (const request of ranged) {
          await expect(request(device, 512, lengthBytes)).rejects.toMatchObject({
            code: 'OUT_OF_RANGE',
          });
        }
      }
    });

    test('the allocation map covers exactly what was asked for, and its zeros are zeros', async () => {
      await using subject = await open();
      const { device } = subject;
      await device.write(4096, randomBytes(8192, 9));
      await device.write(100_000, randomBytes(10, 10));
      await device.writeZeroes(5000, 5000);
      await device.flush();
      const bytes = await readBytes(device);
      for (const [offsetBytes, lengthBytes] of [
        [0, sizeBytes],
        [1, sizeBytes - 2],
        [5001, 1],
        [4095, 96_000],
        [sizeBytes - 1, 1],
      ] as const) {
        expectCover(await device.allocation(offsetBytes, lengthBytes), offsetBytes, lengthBytes, bytes);
      }
    });

    test('where there is a native source, it has every answered write', async () => {
      await using subject = await open();
      const { device } = subject;
      if (!device.nativeSource) return;
      const bytes = randomBytes(20_000, 11);
      await device.write(33_333, bytes);
      await device.writeZeroes(40_000, 1000);
      bytes.fill(0, 6667, 7667);
      const found = new Uint8Array(20_000);
      readSync(device.nativeSource.fd, found, 0, 20_000, 33_333);
      expect(differenceAt(found, bytes)).toBeUndefined();
    });

    test('reads and writes that are sent together do what they do alone, where they can be', async () => {
      await using subject = await open();
      const { device } = subject;
      const expected = randomBytes(sizeBytes, 7);
      const bytes = new Uint8Array(20_000).fill(0xee);
      bytes.set(expected.subarray(1000, 1700), 10);
      bytes.set(expected.subarray(sizeBytes - 5000), 9000);
      const places = Float64Array.of(1000, 10, 700, 50_000, 800, 0, sizeBytes - 5000, 9000, 5000);
      await device.writeBatch?.([{ bytes, places }]);
      const zeros = new Uint8Array(sizeBytes);
      if (device.writeBatch) {
        zeros.set(expected.subarray(1000, 1700), 1000);
        zeros.set(expected.subarray(sizeBytes - 5000), sizeBytes - 5000);
      }
      expect(differenceAt(await readBytes(device), zeros)).toBeUndefined();

      const into = new Uint8Array(20_000).fill(0xee);
      const done = new Uint8Array(3);
      device.readNow?.({ bytes: into, places }, done);
      for (const [index, isDone] of done.entries()) {
        const [offset = 0, at = 0, length = 0] = places.subarray(3 * index, 3 * index + 3);
        if (isDone === 0) await device.read(offset, into.subarray(at, at + length));
      }
      const around = new Uint8Array(20_000).fill(0xee);
      around.set(zeros.subarray(1000, 1700), 10);
      around.set(zeros.subarray(sizeBytes - 5000), 9000);
      expect(differenceAt(into, around)).toBeUndefined();

      const outside = { bytes, places: Float64Array.of(0, 0, 10, sizeBytes - 1, 10, 2) };
      const untouched = new Uint8Array(2);
      if (device.readNow) expect(() => device.readNow?.(outside, untouched)).toThrow('reaches past the end');
      if (device.writeBatch)
        await expect(device.writeBatch([outside])).rejects.toMatchObject({ code: 'OUT_OF_RANGE' });
      expect(differenceAt(await readBytes(device), zeros)).toBeUndefined();
    });

    test('close waits for the requests in flight', async () => {
      await using subject = await open();
      const { device } = subject;
      let answered = 0;
      const count = (): void => void answered++;
      const sent = [
        device.write(0, randomBytes(100_000, 12)).then(count),
        device.writeZeroes(110_000, 1000, { mayTrim: false }).then(count),
        device.trim(112_000, 1000).then(count),
        device.read(0, new Uint8Array(1000)).then(count),
        device.allocation(0, 1000).then(count),
        device.flush().then(count),
      ];
      await device.close();
      await Promise.resolve(); // The counting is one step behind the answers.
      expect(answered).toBe(sent.length);
      await Promise.all(sent);
    });

    test('after close every request fails with DEVICE_CLOSED, and it can be closed again', async () => {
      await using subject = await open();
      const { device } = subject;
      const closing = device.close();
      for (const request of Object.values(requests)) {
        await expect(request(device, 0, 512)).rejects.toMatchObject({ code: 'DEVICE_CLOSED' });
        await expect(request(device, 0, 0)).rejects.toMatchObject({ code: 'DEVICE_CLOSED' });
      }
      await expect(device.flush()).rejects.toMatchObject({ code: 'DEVICE_CLOSED' });
      await closing;
      await device.close();
      await device[Symbol.asyncDispose]();
      await expect(device.flush()).rejects.toMatchObject({ code: 'DEVICE_CLOSED' });
    });

    test('random requests, several at a time, do what they do to plain bytes', async () => {
      await using subject = await open();
      await fc.assert(
        fc.asyncProperty(deviceRuns(sizeBytes), (run) => checkAgainstModel(subject.device, run)),
        { seed: testSeed(), numRuns: kind.modelRuns ?? 30 },
      );
    });

    if (kind.anySize) {
      test('it works at any size', async () => {
        for (const size of [0, 1, 511, 512, 513, 4097]) {
          await using subject = await kind.open(size);
          const { device } = subject;
          expect(device.sizeBytes).toBe(size);
          const bytes = randomBytes(size, size);
          await device.write(0, bytes);
          await device.flush();
          expect(differenceAt(await readBytes(device), bytes)).toBeUndefined();
          expectCover(await device.allocation(0, size), 0, size, bytes);
          await device.trim(0, size);
          await device.writeZeroes(0, size);
          expect(differenceAt(await readBytes(device), new Uint8Array(size))).toBeUndefined();
          await expect(device.read(0, new Uint8Array(size + 1))).rejects.toMatchObject({
            code: 'OUT_OF_RANGE',
          });
        }
      });
    }

    if (kind.openReadOnly) testReadOnly(kind, kind.openReadOnly.bind(kind));
  });
}

function testReadOnly(kind: DeviceKind, open: (sizeBytes: number) => Promise<Subject>): void {
  const { test, sizeBytes } = kind;

  test('read-only: it says so, can be read, and takes a flush', async () => {
    await using subject = await open(sizeBytes);
    const { device } = subject;
    expect(device.capabilities.readOnly).toBe(true);
    expect(differenceAt(await readBytes(device), new Uint8Array(sizeBytes))).toBeUndefined();
    expectCover(await device.allocation(0, sizeBytes), 0, sizeBytes, new Uint8Array(sizeBytes));
    await device.flush();
  });

  for (const [name, request] of Object.entries(changes)) {
    test(`read-only: ${name} is refused with READ_ONLY`, async () => {
      await using subject = await open(sizeBytes);
      const { device } = subject;
      for (const lengthBytes of [0, 1, 4096]) {
        await expect(request(device, 0, lengthBytes)).rejects.toMatchObject({ code: 'READ_ONLY' });
      }
      expect(differenceAt(await readBytes(device), new Uint8Array(sizeBytes))).toBeUndefined();
    });
  }
}

/** @param bytes what the whole device holds. */
function expectCover(extents: Extent[], offsetBytes: number, lengthBytes: number, bytes: Uint8Array): void {
  let at = offsetBytes;
  for (const extent of extents) {
    expect(extent.offsetBytes).toBe(at);
    expect(extent.lengthBytes).toBeGreaterThan(0);
    at += extent.lengthBytes;
    if (extent.kind === 'data') continue;
    const zeros = new Uint8Array(extent.lengthBytes);
    expect(differenceAt(bytes.subarray(extent.offsetBytes, at), zeros)).toBeUndefined();
  }
  expect(at).toBe(offsetBytes + lengthBytes);
}
