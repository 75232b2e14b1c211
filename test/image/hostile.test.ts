import fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { GenerationDevice } from '#src/backup/image/generation-device';
import { BackupImage } from '#src/backup/image/image';
import { CopyPool } from '#src/backup/pool';
import { verify, type VerifyReport } from '#src/backup/verify';
import type { Core } from '#src/core/core';
import { loadCore } from '#src/core/load';
import { isCofferdamError } from '#src/runtime/errors';
import { Random } from '#src/runtime/random';
import { KiB, MiB } from '#src/runtime/sizes';
import { testSeed } from '../support/seed.js';
import { forge, type Forgery, type Json } from './support/forger.js';
import { randomDevice, writeGeneration } from './support/generations.js';
import { MemoryStore } from './support/memory-store.js';

/*
 * Images made by somebody who means harm: all checksums are right, and what they cover is not. Whatever it is, a reader may
 * only ever fail with an error of ours. A hang or a huge allocation fails these tests by their time limit or by memory.
 */
const RUNS = Number(process.env['RUNS'] ?? 400);

let core: Core;
let original: Uint8Array;

beforeAll(async () => {
  core = await loadCore();
  const store = new MemoryStore();
  const image = await BackupImage.initialise(store, core);
  await writeGeneration(image, [randomDevice(new Random(1), 'a', 600 * 4 * KiB, 4 * KiB, 0.05)]);
  original = store.bytes.slice();
});

/** Does all that can be done with an image; throws only what is not an error of ours. */
async function exercise(bytes: Uint8Array): Promise<VerifyReport | undefined> {
  await using pool = unusedPool();
  return await ours(async () => {
    const image = await BackupImage.open(new MemoryStore(bytes), core);
    for (const { generation } of image.generations) await ours(() => readGeneration(image, generation));
    const report = await verify(image, { pool });
    const next = await ours(() => writeGeneration(image, [randomDevice(new Random(2), 'b', 8192, 4096, 1)]));
    if (next !== undefined) await image.record(next);
    return report;
  });
}

async function readGeneration(image: BackupImage, generation: number): Promise<void> {
  const record = await image.record(generation);
  for (const { id, sizeBytes } of record.devices) {
    await using device = new GenerationDevice(image, record, id);
    const part = new Uint8Array(Math.min(sizeBytes, MiB));
    await ours(() => device.read(0, part));
    await ours(() => device.read(sizeBytes - part.length, part));
    await ours(() => device.allocation(0, sizeBytes));
  }
}

async function ours<T>(action: () => Promise<T>): Promise<T | undefined> {
  try {
    return await action();
  } catch (error) {
    if (isCofferdamError(error)) return undefined;
    throw error;
  }
}

/** An image in memory is checked in this thread, so no other is started for it. */
function unusedPool(): CopyPool {
  return Object.create(CopyPool.prototype) as CopyPool;
}
