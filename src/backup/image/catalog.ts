import { z } from 'zod';
import type { Consistency, GenerationRecord, Strategy } from './record.js';

/** What `list` shows of a generation without reading its record. */
export interface CatalogEntry {
  generation: number;
  /** BLAKE3 of the record, in hexadecimal: it authenticates the generation. */
  fingerprint: string;
  /** Where the record is in the image. */
  record: { offset: number; length: number };
  finishedAt: string;
  strategy: Strategy;
  consistency: Consistency;
  deviceCount: number;
  /** All devices together. */
  sizeBytes: number;
  /** Block data that this generation itself stored. */
  storedBytes: number;
}

/** The generations of an image, in ascending order. */
export interface Catalog {
  /** The highest number given so far. Numbers are not used again, even after a generation is gone. */
  lastGeneration: number;
  generations: CatalogEntry[];
}

export const emptyCatalog: Catalog = { lastGeneration: 0, generations: [] };

const wholeNumber = z.number().int().nonnegative();

const catalogEntrySchema = z.object({
  generation: wholeNumber.min(1),
  fingerprint: z.string().regex(/^[0-9a-f]{64}$/),
  record: z.object({ offset: wholeNumber, length: wholeNumber }),
  finishedAt: z.iso.datetime(),
  strategy: z.enum(['snapshot', 'hold', 'rolling']),
  consistency: z.enum(['group', 'device']),
  deviceCount: wholeNumber,
  sizeBytes: wholeNumber,
  storedBytes: wholeNumber,
});

export const catalogSchema: z.ZodType<Catalog> = z
  .object({ lastGeneration: wholeNumber, generations: z.array(catalogEntrySchema) })
  .refine(ascends, 'the generations do not ascend up to the last one');

function ascends(catalog: Catalog): boolean {
  let previous = 0;
  for (const { generation } of catalog.generations) {
    if (generation <= previous) return false;
    previous = generation;
  }
  return previous <= catalog.lastGeneration;
}

/** The entry for a record that lies at `place` and has that fingerprint. */
export function catalogEntry(
  record: GenerationRecord,
  place: { offset: number; length: number },
  fingerprint: string,
): CatalogEntry {
  return {
    generation: record.generation,
    fingerprint,
    record: { offset: place.offset, length: place.length },
    finishedAt: record.finishedAt,
    strategy: record.strategy,
    consistency: record.consistency,
    deviceCount: record.devices.length,
    sizeBytes: record.devices.reduce((sum, device) => sum + device.sizeBytes, 0),
    storedBytes: record.statistics.storedBytes,
  };
}
