import type { Core } from '../../core/core.js';
import { invariant } from '../../runtime/errors.js';
import { DATA_START, MAX_JSON_BYTES, SLOT_BYTES, type JsonPointer } from './layout.js';

/*
 * Byte layout, little-endian:
 *
 *      0  16  magic "cofferdam image\n"
 *     16   4  version of the format that the image was written in
 *     20   4  the lowest version that a reader must know
 *     24  16  UUID of the image
 *     40   8  sequence number, from 1
 *     48   8  end of the allocated space
 *     56   8  catalog: offset
 *     64   4  catalog: length; 0 while there are no generations
 *     68   4  zero
 *     72  32  catalog: BLAKE3
 *    104 376  zero
 *    480  32  BLAKE3 of bytes 0 to 479
 *    512      zero up to 4096
 *
 * Everything that is not constant lies in one 512-byte sector, which devices write whole or not at all, so a power
 * cut leaves the old superblock or the new one. Magic, versions, UUID, sequence and checksum stay where they are in
 * every version of the format, so that "newer" can be told from "damaged".
 */
const magic = new TextEncoder().encode('cofferdam image\n');
const at = {
  version: 16,
  minimumReader: 20,
  uuid: 24,
  sequence: 40,
  end: 48,
  catalog: 56,
  checksum: 480,
} as const;
const SUM_BYTES = 32;
const SECTOR_END = 512;

/** What this program writes, and the newest that it reads. */
export const FORMAT_VERSION = 1;

export interface Superblock {
  uuid: string;
  sequence: number;
  /** First byte that the generations of this superblock and the earlier ones do not use. */
  endBytes: number;
  /** Null while there are no generations. */
  catalog: JsonPointer | null;
}

export type Slot =
  | { kind: 'valid'; superblock: Superblock }
  | { kind: 'newer'; version: number; minimumReader: number; sequence: number }
  | { kind: 'blank' }
  | {
      kind: 'damaged';
      reason: string;
      hasMagic: boolean;
      /** The medium did not give it; next time it may. */
      isUnreadable?: true;
    };

/** The slot that a superblock of this sequence number is written to; so each commit replaces the older one. */
export function slotOf(sequence: number): 0 | 1 {
  return sequence % 2 === 1 ? 0 : 1;
}

export function encodeSuperblock(superblock: Superblock, core: Core): Uint8Array {
  const { uuid, sequence, endBytes, catalog } = superblock;
  invariant(
    Number.isSafeInteger(sequence) && Number.isSafeInteger(endBytes),
    'a superblock holds safe integers',
  );
  const bytes = new Uint8Array(SLOT_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(magic);
  view.setUint32(at.version, FORMAT_VERSION, true);
  view.setUint32(at.minimumReader, FORMAT_VERSION, true);
  bytes.set(Buffer.from(uuid.replaceAll('-', ''), 'hex'), at.uuid);
  view.setBigUint64(at.sequence, BigInt(sequence), true);
  view.setBigUint64(at.end, BigInt(endBytes), true);
  if (catalog !== null) {
    view.setBigUint64(at.catalog, BigInt(catalog.offset), true);
    view.setUint32(at.catalog + 8, catalog.length, true);
    bytes.set(Buffer.from(catalog.blake3, 'hex'), at.catalog + 16);
  }
  bytes.set(core.hash('blake3', bytes.subarray(0, at.checksum)), at.checksum);
  return bytes;
}

/** Judges the bytes of slot `index`; it never throws. */
export function decodeSlot(index: 0 | 1, bytes: Uint8Array, core: Core): Slot {
  if (core.isZero(bytes)) return { kind: 'blank' };
  const hasMagic = Buffer.compare(bytes.subarray(0, magic.length), magic) === 0;
  const damaged = (reason: string): Slot => ({ kind: 'damaged', reason, hasMagic });
  if (!hasMagic) return damaged('it has no magic number');
  const sum = core.hash('blake3', bytes.subarray(0, at.checksum));
  if (Buffer.compare(sum, bytes.subarray(at.checksum, at.checksum + SUM_BYTES)) !== 0) {
    return damaged('it does not match its checksum');
  }

  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const sequence = Number(view.getBigUint64(at.sequence, true));
  if (!Number.isSafeInteger(sequence + 1) || sequence < 1)
    return damaged('its sequence number is out of range');
  if (slotOf(sequence) !== index) return damaged(`sequence number ${sequence} does not belong in this slot`);
  const minimumReader = view.getUint32(at.minimumReader, true);
  if (minimumReader > FORMAT_VERSION) {
    return { kind: 'newer', version: view.getUint32(at.version, true), minimumReader, sequence };
  }
  if (!core.isZero(bytes.subarray(SECTOR_END))) return damaged('the bytes after it are not zero');

  const endBytes = Number(view.getBigUint64(at.end, true));
  if (!Number.isSafeInteger(endBytes) || endBytes < DATA_START)
    return damaged('its end of space is out of range');
  const catalog = decodeCatalogPointer(bytes, view);
  if (catalog !== null && !liesWithin(catalog, endBytes))
    return damaged('its catalog lies outside the image');
  return { kind: 'valid', superblock: { uuid: decodeUuid(bytes), sequence, endBytes, catalog } };
}

function decodeCatalogPointer(bytes: Uint8Array, view: DataView): JsonPointer | null {
  const length = view.getUint32(at.catalog + 8, true);
  if (length === 0) return null;
  const offset = Number(view.getBigUint64(at.catalog, true));
  const sum = bytes.subarray(at.catalog + 16, at.catalog + 16 + SUM_BYTES);
  return { offset, length, blake3: Buffer.from(sum).toString('hex') };
}

function liesWithin(pointer: JsonPointer, endBytes: number): boolean {
  const { offset, length } = pointer;
  return offset >= DATA_START && length <= MAX_JSON_BYTES && offset <= endBytes - length;
}

function decodeUuid(bytes: Uint8Array): string {
  const hex = Buffer.from(bytes.subarray(at.uuid, at.uuid + 16)).toString('hex');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}
