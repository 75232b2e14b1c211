import type { GenerationWriter, BackupImage } from '#src/backup/image/image';
import { GenerationDevice } from '#src/backup/image/generation-device';
import type { DeviceRecord, GenerationRecord } from '#src/backup/image/record';
import { BlockState, hashLengthBytes, type HashAlgorithm } from '#src/core/core';
import type { Random } from '#src/runtime/random';
import { readBytes } from '../../support/bytes.js';

export interface DeviceContent {
  id: string;
  blockSizeBytes: number;
  bytes: Uint8Array;
}

/** What all devices held, by generation. */
export type Contents = Map<number, DeviceContent[]>;

const LEAF = 256;

/** A device some of whose blocks hold random bytes and the rest zeros. */
export function randomDevice(
  random: Random,
  id: string,
  sizeBytes: number,
  blockSizeBytes: number,
  density: number,
): DeviceContent {
  const device = { id, blockSizeBytes, bytes: new Uint8Array(sizeBytes) };
  for (let at = 0; at < sizeBytes; at += blockSizeBytes)
    if (random.chance(density)) scribble(random, device, at);
  return device;
}

/** The device after some of its blocks were overwritten, with random bytes or zeros. */
export function changed(random: Random, device: DeviceContent, blocks: number): DeviceContent {
  const next = { ...device, bytes: device.bytes.slice() };
  const total = Math.ceil(device.bytes.length / device.blockSizeBytes);
  for (let i = 0; i < blocks; i++) {
    const at = random.below(total) * device.blockSizeBytes;
    if (random.chance(0.3)) next.bytes.fill(0, at, at + device.blockSizeBytes);
    else scribble(random, next, at);
  }
  return next;
}

/** Few random bytes do: a block is right or wrong as a whole. */
function scribble(random: Random, device: DeviceContent, at: number): void {
  const block = device.bytes.subarray(at, at + device.blockSizeBytes);
  for (let i = 0; i < 8; i++) block[random.below(block.length)] = 1 + random.below(255);
}

export interface WriteOptions {
  algorithm?: HashAlgorithm;
  /** Write an incremental of this generation, whose contents are given. */
  base?: { record: GenerationRecord; devices: DeviceContent[] };
  /** Give up instead of committing. */
  abandon?: boolean;
}

/** Writes a generation as the copier does, without worker threads. */
export async function writeGeneration(
  image: BackupImage,
  devices: readonly DeviceContent[],
  options: WriteOptions = {},
): Promise<number> {
  const { algorithm = 'xxh64', base } = options;
  const writer = image.beginGeneration();
  try {
    const records: DeviceRecord[] = [];
    for (const device of devices) records.push(await writeDevice(image, writer, device, algorithm, base));
    if (!options.abandon) return await writer.commit(recordOf(records, algorithm, base?.record.generation));
  } catch (error) {
    await writer.abandon();
    throw error;
  }
  await writer.abandon();
  return 0;
}

async function writeDevice(
  image: BackupImage,
  writer: GenerationWriter,
  device: DeviceContent,
  algorithm: HashAlgorithm,
  base: WriteOptions['base'],
): Promise<DeviceRecord> {
  const { id, blockSizeBytes, bytes } = device;
  const sizeBytes = bytes.length;
  const before = base?.devices.find((candidate) => candidate.id === id)?.bytes;
  const root = base?.record.devices.find((candidate) => candidate.id === id)?.root;
  const map = writer.blockMapWriter({ deviceId: id, sizeBytes, blockSizeBytes, algorithm }, root);
  const hashBytes = hashLengthBytes[algorithm];
  for (let first = 0; first * blockSizeBytes < sizeBytes; first += LEAF) {
    const count = Math.min(LEAF, Math.ceil(sizeBytes / blockSizeBytes) - first);
    const states = new Uint8Array(count);
    const offsets = new Float64Array(count);
    const hashes = new Uint8Array(count * hashBytes);
    const data: Uint8Array[] = [];
    let length = 0;
    for (let i = 0; i < count; i++) {
      const start = (first + i) * blockSizeBytes;
      const block = bytes.subarray(start, start + blockSizeBytes);
      if (before && Buffer.compare(before.subarray(start, start + block.length), block) === 0) continue;
      states[i] = image.core.isZero(block) ? BlockState.Zero : BlockState.Stored;
      if (states[i] === BlockState.Zero) continue;
      offsets[i] = length;
      hashes.set(image.core.hash(algorithm, block), i * hashBytes);
      data.push(block);
      length += block.length;
    }
    if (before && states.every((state) => state === BlockState.Skipped)) continue;
    if (length > 0) {
      const offset = await writer.appendData(Buffer.concat(data));
      states.forEach((state, i) => {
        if (state === BlockState.Stored) offsets[i] = offset + (offsets[i] ?? 0);
      });
    }
    await map.put(first / LEAF, { states, offsets, hashes });
  }
  return { id, sizeBytes, blockSizeBytes, root: await map.seal() };
}

/** A record that says something plausible about everything but the devices. */
export function recordOf(
  devices: DeviceRecord[],
  hashAlgorithm: HashAlgorithm,
  parent: number | null = null,
): Omit<GenerationRecord, 'generation'> {
  return {
    parent,
    hashAlgorithm,
    strategy: 'snapshot',
    consistency: 'group',
    startedAt: '2025-01-31T11:59:58.000Z',
    finishedAt: '2025-01-31T12:00:00.000Z',
    devices,
    statistics: { storedBytes: 1, zeroBytes: 2, readBytes: 3 },
    cut: {
      servers: devices.map(({ id }) => ({
        id,
        epoch: 1,
        holdMs: 1.5,
        parkedRequests: 0,
        longestParkMs: 0,
        heldWithoutBreak: true,
      })),
      group: { stallMs: 2.5, overlapMs: 0.5 },
    },
  };
}

/** Reads every device of every generation through the image; what it cannot read is an error. */
export async function restoreAll(image: BackupImage): Promise<Contents> {
  const contents: Contents = new Map();
  for (const { generation } of image.generations) {
    const record = await image.record(generation);
    const devices: DeviceContent[] = [];
    for (const { id, blockSizeBytes } of record.devices) {
      await using device = new GenerationDevice(image, record, id);
      devices.push({ id, blockSizeBytes, bytes: await readBytes(device) });
    }
    contents.set(generation, devices);
  }
  return contents;
}

/** The first difference between what was restored of a generation and what was written, or undefined. */
export function differs(
  actual: DeviceContent[] | undefined,
  expected: DeviceContent[] | undefined,
): string | undefined {
  if (!actual || !expected) return actual === expected ? undefined : 'the generation is not there';
  if (actual.length !== expected.length) return 'devices are missing';
  for (const [i, device] of expected.entries()) {
    const found = actual[i];
    if (found?.id !== device.id) return `device ${device.id} is not there`;
    if (Buffer.compare(found.bytes, device.bytes) !== 0) return `device ${device.id} has wrong bytes`;
  }
  return undefined;
}
