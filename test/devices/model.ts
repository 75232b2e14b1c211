import fc from 'fast-check';
import { expect } from 'vitest';
import type { BlockDevice } from '#src/devices/block-device';
import { differenceAt, randomBytes, readBytes } from '../support/bytes.js';

export type ModelRequest = { offsetBytes: number; lengthBytes: number } & (
  | { kind: 'write'; fua: boolean; seed: number }
  | { kind: 'zeroes'; fua: boolean; mayTrim: boolean }
  | { kind: 'trim' | 'read' | 'allocation' | 'flush' }
);

/** Requests that are sent at the same time; no two of them overlap. */
export type Batch = ModelRequest[];

/** Batches of requests to a device of this size, one batch after the other. */
export function deviceRuns(sizeBytes: number): fc.Arbitrary<Batch[]> {
  const batch = fc.array(deviceRequests(sizeBytes), { minLength: 1, maxLength: 8 });
  return fc.array(batch.map(withoutOverlaps), { minLength: 1, maxLength: 8 });
}

export function deviceRequests(sizeBytes: number): fc.Arbitrary<ModelRequest> {
  const range = fc
    .record({
      offsetBytes: fc.nat(sizeBytes),
      lengthBytes: fc.oneof(fc.nat(600), fc.nat(40_000)),
      step: fc.constantFrom(1, 1, 512, 4096),
    })
    .map(({ offsetBytes, lengthBytes, step }) => {
      const offset = Math.floor(offsetBytes / step) * step;
      const length = Math.min(Math.ceil(lengthBytes / step) * step, sizeBytes - offset);
      return { offsetBytes: offset, lengthBytes: length };
    });
  const what = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({ kind: fc.constant('write' as const), fua: fc.boolean(), seed: fc.nat() }),
    },
    fc.record({ kind: fc.constant('zeroes' as const), fua: fc.boolean(), mayTrim: fc.boolean() }),
    fc.record({
      kind: fc.constantFrom('trim' as const, 'read' as const, 'allocation' as const, 'flush' as const),
    }),
  );
  return fc.tuple(range, what).map(([place, action]): ModelRequest => ({ ...place, ...action }));
}

/** What a device must hold: plain bytes, and which of them are known (a trim makes them unknown). */
class Model {
  readonly bytes: Uint8Array;
  readonly known: Uint8Array;

  constructor(sizeBytes: number) {
    this.bytes = new Uint8Array(sizeBytes);
    this.known = new Uint8Array(sizeBytes).fill(1);
  }

  apply(request: ModelRequest): void {
    const { offsetBytes, lengthBytes } = request;
    const end = offsetBytes + lengthBytes;
    if (request.kind === 'write') this.bytes.set(randomBytes(lengthBytes, request.seed), offsetBytes);
    if (request.kind === 'zeroes') this.bytes.fill(0, offsetBytes, end);
    if (request.kind === 'write' || request.kind === 'zeroes') this.known.fill(1, offsetBytes, end);
    if (request.kind === 'trim') this.known.fill(0, offsetBytes, end);
  }

  check(offsetBytes: number, found: Uint8Array): void {
    const expected = this.bytes.slice(offsetBytes, offsetBytes + found.length);
    for (let i = 0; i < found.length; i++) {
      if (this.known[offsetBytes + i] === 0) expected[i] = found[i] ?? 0;
    }
    expect(differenceAt(found, expected)).toBeUndefined();
  }
}

/** Sends the batches to a device and compares what it answers, and holds after each batch, with a model. */
export async function checkAgainstModel(device: BlockDevice, run: Batch[]): Promise<void> {
  await device.writeZeroes(0, device.sizeBytes);
  const model = new Model(device.sizeBytes);
  for (const batch of run) {
    await Promise.all(batch.map((request) => send(device, request, model)));
    for (const request of batch) model.apply(request);
    for (const { offsetBytes, lengthBytes } of batch) {
      const start = Math.max(0, offsetBytes - 512);
      const end = Math.min(device.sizeBytes, offsetBytes + lengthBytes + 512);
      model.check(start, await readBytes(device, start, end - start));
    }
    await checkAllocation(device, 0, device.sizeBytes, model);
  }
  model.check(0, await readBytes(device));
}

/** Sends a request; what it answers is not looked at. */
export async function sendRequest(device: BlockDevice, request: ModelRequest): Promise<void> {
  const { offsetBytes, lengthBytes } = request;
  switch (request.kind) {
    case 'write':
      return await device.write(offsetBytes, randomBytes(lengthBytes, request.seed), { fua: request.fua });
    case 'zeroes':
      return await device.writeZeroes(offsetBytes, lengthBytes, request);
    case 'trim':
      return await device.trim(offsetBytes, lengthBytes);
    case 'flush':
      return await device.flush();
    case 'read':
      return await device.read(offsetBytes, new Uint8Array(lengthBytes));
    case 'allocation':
      return void (await device.allocation(offsetBytes, lengthBytes));
  }
}

async function checkAllocation(
  device: BlockDevice,
  offsetBytes: number,
  lengthBytes: number,
  model: Model,
): Promise<void> {
  let at = offsetBytes;
  for (const extent of await device.allocation(offsetBytes, lengthBytes)) {
    expect(extent.offsetBytes).toBe(at);
    if (extent.kind === 'zero') model.check(at, new Uint8Array(extent.lengthBytes));
    at += extent.lengthBytes;
  }
  expect(at).toBe(offsetBytes + lengthBytes);
}

async function send(device: BlockDevice, request: ModelRequest, model: Model): Promise<void> {
  const { kind, offsetBytes, lengthBytes } = request;
  if (kind === 'read') {
    model.check(offsetBytes, await readBytes(device, offsetBytes, lengthBytes));
  } else if (kind === 'allocation') {
    await checkAllocation(device, offsetBytes, lengthBytes, model);
  } else {
    await sendRequest(device, request);
  }
}

function withoutOverlaps(requests: ModelRequest[]): Batch {
  const batch: Batch = [];
  for (const request of requests) {
    const end = request.offsetBytes + request.lengthBytes;
    const free = batch.every(
      (one) => end <= one.offsetBytes || one.offsetBytes + one.lengthBytes <= request.offsetBytes,
    );
    if (free) batch.push(request);
  }
  return batch;
}
