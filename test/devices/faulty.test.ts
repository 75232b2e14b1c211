import { expect, test } from 'vitest';
import type { BlockDevice } from '#src/devices/block-device';
import { FaultyDevice, type FaultOperation, type FaultRule } from '#src/devices/faulty';
import { MemoryDevice } from '#src/devices/memory';
import { readBytes } from '../support/bytes.js';
import { isSettled, ManualClock } from '../support/manual-clock.js';

const operations: Record<FaultOperation, (device: BlockDevice) => Promise<void>> = {
  read: (device) => device.read(0, new Uint8Array(512)),
  write: (device) => device.write(0, new Uint8Array(512).fill(1)),
  flush: (device) => device.flush(),
  trim: (device) => device.trim(0, 512),
  writeZeroes: (device) => device.writeZeroes(0, 512),
};

function faultyMemory(sizeBytes = 64 * 1024): {
  device: FaultyDevice;
  clock: ManualClock;
  inner: MemoryDevice;
} {
  const clock = new ManualClock();
  const inner = new MemoryDevice(sizeBytes);
  return { device: new FaultyDevice(inner, { clock }), clock, inner };
}

/** Sends this many requests and tells which of them failed. */
async function failures(
  device: BlockDevice,
  count: number,
  operation: FaultOperation = 'write',
): Promise<number[]> {
  const failed: number[] = [];
  for (let n = 1; n <= count; n++) {
    await operations[operation](device).catch(() => failed.push(n));
  }
  return failed;
}

test('a rule meets its own operation alone, and any meets them all', async () => {
  for (const ruled of [...Object.keys(operations), 'any'] as FaultRule['operation'][]) {
    const { device } = faultyMemory();
    const rule = device.inject({ operation: ruled });
    for (const [operation, send] of Object.entries(operations)) {
      const outcome = await send(device).catch((error: unknown) => error);
      if (ruled === 'any' || ruled === operation) expect(outcome).toMatchObject({ code: 'INJECTED_FAULT' });
      else expect(outcome).toBeUndefined();
    }
    expect(rule.hits).toBe(ruled === 'any' ? 5 : 1);
  }
});

test('a request that fails is not done', async () => {
  const { device, inner } = faultyMemory();
  await device.write(0, new Uint8Array(1024).fill(1));
  {
    using _rule = device.inject({ operation: 'any', fault: { error: 'DEVICE_FULL' } });
    await expect(device.write(0, new Uint8Array(512).fill(2))).rejects.toMatchObject({
      code: 'DEVICE_FULL',
      offsetBytes: 0,
      lengthBytes: 512,
    });
    await expect(device.writeZeroes(0, 512)).rejects.toMatchObject({ code: 'DEVICE_FULL' });
    await expect(device.trim(0, 512)).rejects.toMatchObject({ code: 'DEVICE_FULL' });
    const into = new Uint8Array(512).fill(9);
    await expect(device.read(0, into)).rejects.toMatchObject({ code: 'DEVICE_FULL' });
    expect(into).toEqual(new Uint8Array(512).fill(9));
  }
  expect(await readBytes(inner, 0, 1024)).toEqual(new Uint8Array(1024).fill(1));
});

test('nth and count choose among the requests that match', async () => {
  const cases: [Partial<FaultRule>, number[]][] = [
    [{}, [1, 2, 3, 4, 5]],
    [{ nth: 3 }, [3]],
    [{ nth: 2, count: 3 }, [2, 3, 4]],
    [{ count: 2 }, [1, 2]],
    [{ count: 0 }, []],
  ];
  for (const [choice, expected] of cases) {
    const { device } = faultyMemory();
    const rule = device.inject({ operation: 'write', ...choice });
    await failures(device, 3, 'read'); // These do not count.
    await device.write(0, new Uint8Array(0));
    await device.write(device.sizeBytes, new Uint8Array(1)).catch(() => {});
    expect(await failures(device, 5)).toEqual(expected);
    expect(rule.hits).toBe(expected.length);
  }
});

test('a range meets the requests that touch it', async () => {
  const { device } = faultyMemory();
  const rule = device.inject({ operation: 'any', range: { offsetBytes: 1000, lengthBytes: 100 } });
  for (const [offsetBytes, lengthBytes, meets] of [
    [0, 1000, false],
    [0, 1001, true],
    [1099, 1, true],
    [1100, 5000, false],
    [1050, 10, true],
    [0, 5000, true],
  ] as const) {
    const outcome = await device
      .read(offsetBytes, new Uint8Array(lengthBytes))
      .catch((error: unknown) => error);
    expect(outcome !== undefined).toBe(meets);
  }
  await device.flush();
  expect(rule.hits).toBe(4);
});

test('a delay ends when the clock says so', async () => {
  const { device, clock, inner } = faultyMemory();
  device.inject({ operation: 'write', fault: { delayMs: 100 } });
  const written = device.write(0, Uint8Array.of(1));
  await clock.advance(99);
  expect(await isSettled(written)).toBe(false);
  expect(await readBytes(inner, 0, 1)).toEqual(Uint8Array.of(0));
  await clock.advance(1);
  await written;
  expect(await readBytes(inner, 0, 1)).toEqual(Uint8Array.of(1));
});

for (const [offsetBytes, lengthBytes, sectors, tornBytes] of [
  [0, 4096, 3, 1536],
  [0, 4096, 0, 0],
  [100, 2000, 1, 412],
  [100, 2000, 2, 924],
  [0, 700, 9, 700],
] as const) {
  test(`a write of ${lengthBytes} bytes at ${offsetBytes} torn after ${sectors} sectors`, async () => {
    for (const operation of ['write', 'writeZeroes'] as const) {
      const { device, inner } = faultyMemory();
      const before = operation === 'write' ? 0 : 5;
      await inner.write(0, new Uint8Array(8192).fill(before));
      const rule = device.inject({ operation: 'any', fault: { tornWrite: { sectors } } });
      await readBytes(device); // No read, flush or trim can be torn.
      await device.flush();
      const torn =
        operation === 'write'
          ? device.write(offsetBytes, new Uint8Array(lengthBytes).fill(7), { fua: true })
          : device.writeZeroes(offsetBytes, lengthBytes);
      await expect(torn).rejects.toMatchObject({ code: 'INJECTED_FAULT', offsetBytes, lengthBytes });
      const expected = new Uint8Array(8192).fill(before);
      expected.fill(operation === 'write' ? 7 : 0, offsetBytes, offsetBytes + tornBytes);
      expect(await readBytes(inner, 0, 8192)).toEqual(expected);
      expect(rule.hits).toBe(1);
    }
  });
}

test('a request hangs until its rule is released, then goes on', async () => {
  const { device, inner } = faultyMemory();
  const rule = device.inject({ operation: 'write', count: 1, fault: { hang: true } });
  const hung = device.write(0, Uint8Array.of(1));
  await device.write(1, Uint8Array.of(2));
  expect(await isSettled(hung)).toBe(false);
  expect(await readBytes(inner, 0, 2)).toEqual(Uint8Array.of(0, 2));
  rule.release();
  await hung;
  expect(await readBytes(inner, 0, 2)).toEqual(Uint8Array.of(1, 2));
});

test('closing lets go of what hangs', async () => {
  const { device } = faultyMemory();
  device.inject({ operation: 'any', fault: { hang: true } });
  const hung = device.write(0, Uint8Array.of(1));
  await device.close();
  expect(await isSettled(hung)).toBe(true);
  await hung;
});

test('faults compose: all waits first, then the first failure', async () => {
  const { device, clock } = faultyMemory();
  const rules = [
    device.inject({ operation: 'write', fault: { error: 'DEVICE_FULL' } }),
    device.inject({ operation: 'any', fault: { delayMs: 10 } }),
    device.inject({ operation: 'write', fault: { delayMs: 20 } }),
    device.inject({ operation: 'write', fault: { error: 'DEVICE_IO' } }),
  ];
  const written = device.write(0, Uint8Array.of(1));
  await clock.advance(29);
  expect(await isSettled(written)).toBe(false);
  const failed = expect(written).rejects.toMatchObject({ code: 'DEVICE_FULL' });
  await clock.advance(1);
  await failed;
  expect(rules.map((rule) => rule.hits)).toEqual([1, 1, 1, 1]);
});

test('a rule is in force from its injection until it is released or disposed of', async () => {
  const { device } = faultyMemory();
  expect(await failures(device, 1)).toEqual([]);
  {
    using rule = device.inject({ operation: 'write' });
    expect(await failures(device, 1)).toEqual([1]);
    rule.release();
    expect(await failures(device, 1)).toEqual([]);
    device.inject({ operation: 'read' })[Symbol.dispose]();
  }
  expect(await failures(device, 1, 'read')).toEqual([]);
});

test('rules that make no sense are refused', async () => {
  await using device = faultyMemory().device;
  const rules: FaultRule[] = [
    { operation: 'write', nth: 0 },
    { operation: 'write', nth: 1.5 },
    { operation: 'write', count: -1 },
    { operation: 'write', range: { offsetBytes: -1, lengthBytes: 1 } },
    { operation: 'write', range: { offsetBytes: 0, lengthBytes: NaN } },
    { operation: 'read', fault: { tornWrite: { sectors: 1 } } },
    { operation: 'flush', fault: { tornWrite: { sectors: 1 } } },
    { operation: 'trim', fault: { tornWrite: { sectors: 1 } } },
    { operation: 'write', fault: { tornWrite: { sectors: 0.5 } } },
    { operation: 'write', fault: { delayMs: -1 } },
    { operation: 'write', fault: { delayMs: NaN } },
  ];
  const bad = expect.objectContaining({ code: 'BAD_ARGUMENT' }) as Error;
  for (const rule of rules) expect(() => device.inject(rule)).toThrow(bad);
  expect(await failures(device, 1)).toEqual([]);
});
