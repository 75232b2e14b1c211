import { z } from 'zod';
import type { HashAlgorithm } from '../../core/core.js';
import { deviceIdPattern } from '../../devices/device-id.js';
import { CofferdamError } from '../../runtime/errors.js';
import { KiB, MiB } from '../../runtime/sizes.js';
import type { NodePointer } from './layout.js';
import { rootFault, type MapShape } from './map-shape.js';

/**
 * What the image says about one generation: all the devices at one cut. Stored as UTF-8 JSON (docs/FORMAT.md,
 * "Generation record"); its BLAKE3 is the generation's fingerprint, which authenticates everything beneath it.
 */
export interface GenerationRecord {
  /** 1, 2, 3, ... in order of commit; never used twice in one image. */
  generation: number;
  /** The generation that this one was written as an incremental of; null for a full one. */
  parent: number | null;
  /** Hash of the blocks and of the block-map nodes. */
  hashAlgorithm: HashAlgorithm;
  strategy: Strategy;
  /** `group`: all devices are as of one instant. `device`: each device alone is crash-consistent, the group is not. */
  consistency: Consistency;
  /** When the backup began, and when its last block was copied: ISO 8601 in UTC. */
  startedAt: string;
  finishedAt: string;
  /** At least one, each ID once. */
  devices: DeviceRecord[];
  statistics: CopyStatistics;
  cut: CutCertificate;
}

export type Strategy = 'snapshot' | 'hold' | 'rolling';
export type Consistency = 'group' | 'device';

export interface DeviceRecord {
  /** See {@link deviceIdPattern}. */
  id: string;
  /** 0 to 2^53-1. */
  sizeBytes: number;
  /** A power of two from 4 KiB to 4 MiB. */
  blockSizeBytes: number;
  /** Root of the block map; null when the whole device is zeros. */
  root: NodePointer | null;
}

/** What `rolling` copies in both of its passes counts twice. */
export interface CopyStatistics {
  /** Block data stored by this generation itself, in bytes. */
  storedBytes: number;
  /** Bytes of the devices found to be zero, for which nothing is stored. */
  zeroBytes: number;
  /** Bytes read from the sources; holes are not read. */
  readBytes: number;
}

/** What the servers answered about the cut: the evidence for `consistency`. */
export interface CutCertificate {
  servers: ServerCertificate[];
  /**
   * With `rolling` and its closing cut: the cuts of single devices before it, under which each was copied whole. They are no
   * evidence, but clients waited for them.
   */
  firstPass?: ServerCertificate[] | undefined;
  group: {
    /** From the first raise to the last release, in ms. */
    stallMs: number;
    /** For how long all barriers were up together, in ms; null where no instant had them all up. */
    overlapMs: number | null;
  };
}

export interface ServerCertificate {
  /** ID of the server, which is its device's. */
  id: string;
  epoch: number;
  /** How long the barrier was up, in ms. */
  holdMs: number;
  parkedRequests: number;
  /** The longest that one of them waited, in ms. */
  longestParkMs: number;
  heldWithoutBreak: boolean;
}

/** The longest that a write could have waited in any cut of the backup, in ms. */
export function longestStallMs({ group, firstPass = [] }: CutCertificate): number {
  return firstPass.reduce((longest, { holdMs }) => Math.max(longest, holdMs), group.stallMs);
}

export const MIN_BLOCK_BYTES = 4 * KiB;
export const MAX_BLOCK_BYTES = 4 * MiB;

/** The most devices one generation may have. */
export const MAX_DEVICES = 65_536;

/** @throws CofferdamError BAD_ARGUMENT unless `bytes` is a power of two from 4 KiB to 4 MiB. */
export function checkBlockSize(bytes: number): number {
  if (!isBlockSize(bytes)) {
    throw new CofferdamError(
      'BAD_ARGUMENT',
      `a block of ${bytes} bytes: it must be a power of two from 4 KiB to 4 MiB`,
    );
  }
  return bytes;
}

export function isBlockSize(bytes: number): boolean {
  return bytes >= MIN_BLOCK_BYTES && bytes <= MAX_BLOCK_BYTES && Number.isInteger(Math.log2(bytes));
}

const wholeNumber = z.number().int().nonnegative();
const milliseconds = z.number().nonnegative();

const nodePointer = z.object({
  offset: wholeNumber,
  length: wholeNumber,
  level: wholeNumber,
  hash: z.string().regex(/^([0-9a-f]{16}|[0-9a-f]{64})$/),
});

const deviceRecord = z.object({
  id: z.string().regex(deviceIdPattern),
  sizeBytes: wholeNumber,
  blockSizeBytes: z.number().refine(isBlockSize, 'not a power of two from 4096 to 4194304'),
  root: nodePointer.nullable(),
});

const serverCertificate = z.object({
  id: z.string().regex(deviceIdPattern),
  epoch: wholeNumber,
  holdMs: milliseconds,
  parkedRequests: wholeNumber,
  longestParkMs: milliseconds,
  heldWithoutBreak: z.boolean(),
});

/** Members that this version does not know are dropped: what changes the meaning of others gets a new version. */
export const generationRecordSchema: z.ZodType<GenerationRecord> = z.object({
  generation: wholeNumber.min(1),
  parent: wholeNumber.min(1).nullable(),
  hashAlgorithm: z.enum(['xxh64', 'blake3']),
  strategy: z.enum(['snapshot', 'hold', 'rolling']),
  consistency: z.enum(['group', 'device']),
  startedAt: z.iso.datetime(),
  finishedAt: z.iso.datetime(),
  devices: z
    .array(deviceRecord)
    .min(1)
    .max(MAX_DEVICES)
    .refine(
      (devices) => new Set(devices.map((device) => device.id)).size === devices.length,
      'an ID occurs twice',
    ),
  statistics: z.object({ storedBytes: wholeNumber, zeroBytes: wholeNumber, readBytes: wholeNumber }),
  cut: z.object({
    servers: z.array(serverCertificate).max(MAX_DEVICES),
    firstPass: z.array(serverCertificate).max(MAX_DEVICES).optional(),
    group: z.object({ stallMs: milliseconds, overlapMs: milliseconds.nullable() }),
  }),
});

/** The form of a device's block map. */
export function mapShape(record: GenerationRecord, device: DeviceRecord): MapShape {
  const { id, sizeBytes, blockSizeBytes } = device;
  return { deviceId: id, sizeBytes, blockSizeBytes, algorithm: record.hashAlgorithm };
}

/** What is wrong with a record that has the right form, or undefined. */
export function recordFault(record: GenerationRecord): string | undefined {
  for (const device of record.devices) {
    const fault = rootFault(mapShape(record, device), device.root);
    if (fault !== undefined) return `device ${device.id}: ${fault}`;
  }
  const sizeBytes = record.devices.reduce((sum, device) => sum + device.sizeBytes, 0);
  if (!Number.isSafeInteger(sizeBytes)) return 'the devices together have 2^53 bytes or more';
  if (record.parent !== null && record.parent >= record.generation)
    return 'its parent is not an earlier generation';
  return undefined;
}
