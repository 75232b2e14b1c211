import { z } from 'zod';
import { MOST_WORKERS } from '../backup/pool.js';
import { deviceIdPattern, deviceIdRule } from '../devices/device-id.js';
import { errorCodes, type ErrorCode } from '../runtime/errors.js';

/**
 * What goes over the wire of the control API, both ways. Offsets, lengths and sizes are in bytes, times in ms.
 *
 * Requests have no fields but those that are here: what a misspelt one was to limit would go for everything. Answers may
 * have more, so that a newer process can be asked.
 */

const bytes = z.int().min(0).meta({ description: 'Bytes, from 0 to 2^53-1.' });
const milliseconds = z.number().min(0).max(86_400_000);
const epoch = z.int().min(1);
const blockSizeBytes = z
  .int()
  .min(4096)
  .max(4 * 1024 * 1024);

export const errorBody = z.object({
  code: z.enum(Object.keys(errorCodes) as [ErrorCode, ...ErrorCode[]]),
  message: z.string(),
  device: z.string().optional(),
  offsetBytes: bytes.optional(),
  lengthBytes: bytes.optional(),
});
export type ErrorBody = z.infer<typeof errorBody>;

export const ticket = z.strictObject({ epoch, coordinator: z.string().min(1).max(200) });

export const cutRequest = ticket.extend({
  leaseMs: milliseconds,
  fixedBy: z.enum(['barrier', 'snapshot']),
  blockSizeBytes,
  trackChanges: z.boolean().default(false),
  changedSinceEpoch: epoch.optional(),
});

/** A handle of something that the server keeps for a coordinator for as long as its lease is renewed. */
const lease = z.uuid();

export const cutConfirmation = z.object({
  epoch,
  source: z.object({
    lease,
    /** NBD URI of the contents as of the cut. */
    uri: z.string(),
    /** Base64 of the bitmap of the blocks that were fixed, in 32-bit little-endian words; null: all blocks. */
    selected: z.string().nullable(),
  }),
  /** Present if changes are tracked. */
  tracking: lease.nullable(),
});
export type CutConfirmationBody = z.infer<typeof cutConfirmation>;

export const renewRequest = ticket.extend({ leaseMs: milliseconds });

export const releaseAnswer = z.object({
  heldWithoutBreak: z.boolean(),
  reason: z.string().optional(),
  holdMs: z.number(),
  parkedRequests: z.int(),
  longestParkMs: z.number(),
});

export const copiedRequest = z.strictObject({
  /** First block and number of blocks of each range. */
  ranges: z.array(z.tuple([z.int().min(0), z.int().min(1)])).max(10_000),
});

export const serverStatus = z.object({
  id: z.string(),
  sizeBytes: bytes,
  uri: z.string(),
  identities: z.array(z.string()),
  barrierUp: z.boolean(),
  epoch: z.int().min(0),
  inFlight: z.int(),
  parked: z.int(),
  snapshots: z.int(),
});
export type ServerStatusBody = z.infer<typeof serverStatus>;

export const snapshotRequest = z.strictObject({
  name: z
    .string()
    .regex(deviceIdPattern, `cannot name a snapshot: ${deviceIdRule}`)
    .meta({ description: 'Each device is exported as SERVER@NAME.' }),
  servers: z.array(z.string()).min(1).optional(),
  blockSizeBytes: blockSizeBytes.default(64 * 1024),
  maxStallMs: milliseconds.default(1000),
});

export const snapshotStatus = z.object({
  name: z.string(),
  exports: z.array(z.object({ server: z.string(), uri: z.string(), sizeBytes: bytes })),
  /** Why reads of it fail, and will from now on; null while it is good. */
  broken: z.string().nullable(),
});
export type SnapshotStatusBody = z.infer<typeof snapshotStatus>;

export const backupRequest = z.strictObject({
  /** Absolute path of the image, on the machine that serves the devices. */
  to: z.string().min(1),
  /** IDs of the servers to back up. Default: all of the process. */
  servers: z.array(z.string()).min(1).optional(),
  initialise: z.boolean().optional(),
  strategy: z.enum(['snapshot', 'hold', 'rolling']).optional(),
  closingCut: z.boolean().optional(),
  blockSizeBytes: blockSizeBytes.optional(),
  hash: z.enum(['xxh64', 'blake3']).optional(),
  maxStallMs: milliseconds.optional(),
  limitBytesPerSecond: z.number().positive().optional(),
  workers: z.int().min(1).max(MOST_WORKERS).optional(),
  givesWay: z.boolean().optional(),
  timeline: z.boolean().optional(),
});
export type BackupRequestBody = z.infer<typeof backupRequest>;

const deviceProgress = z.object({ id: z.string(), doneBytes: bytes, readBytes: bytes, totalBytes: bytes });

/** The same as {@link BackupResult}, which is its own documentation. */
const backupResult = z.looseObject({ generation: z.int(), elapsedMs: z.number() });

export const jobStatus = z.object({
  job: z.int(),
  to: z.string(),
  state: z.enum(['running', 'done', 'failed']),
  devices: z.array(deviceProgress),
  /** When it is done. */
  result: backupResult.nullable(),
  /** When it failed or was cancelled. */
  error: errorBody.nullable(),
});
export type JobStatusBody = z.infer<typeof jobStatus>;

const faultOperation = z.enum(['read', 'write', 'flush', 'trim', 'writeZeroes', 'any']);

export const faultRequest = z.strictObject({
  server: z.string(),
  operation: faultOperation,
  range: z.strictObject({ offsetBytes: bytes, lengthBytes: bytes }).optional(),
  nth: z.int().min(1).optional(),
  count: z.int().min(1).optional(),
  fault: z
    .union(
      [
        z.strictObject({ error: errorBody.shape.code }),
        z.strictObject({ delayMs: milliseconds }),
        z.strictObject({ tornWrite: z.strictObject({ sectors: z.int().min(0) }) }),
        z.strictObject({ hang: z.literal(true) }),
      ],
      'must be one of {error: CODE}, {delayMs: N}, {tornWrite: {sectors: N}}, {hang: true}',
    )
    .optional(),
});

export const faultStatus = z.object({ fault: z.int(), server: z.string(), hits: z.int() });

export const powerCutRequest = z.strictObject({
  /** Default: all. */
  servers: z.array(z.string()).min(1).optional(),
  /** Decides which unflushed sectors survive. Default: a fresh one. */
  seed: z.int().min(0).optional(),
});
export const powerCutAnswer = z.object({ seed: z.int() });

export const clusterStatus = z.object({
  servers: z.array(serverStatus),
  exports: z.array(
    z.object({ name: z.string(), kind: z.enum(['server', 'volume']), sizeBytes: bytes, uri: z.string() }),
  ),
  snapshots: z.array(snapshotStatus),
  backups: z.array(jobStatus),
});
export type ClusterStatusBody = z.infer<typeof clusterStatus>;
