import { crc32 } from 'node:zlib';
import { invariant } from '../runtime/errors.js';
import { Random } from '../runtime/random.js';
import { SECTOR_BYTES } from '../runtime/sizes.js';

/**
 * What a writer puts into a sector, so that any copy of the sector tells which write it came from. No two sector-writes
 * of a run have the same stamp.
 *
 * Layout of the 512 bytes, numbers little-endian:
 *
 *     0    8   magic, "CDSTAMP" and the version 1
 *     8    8   run
 *     16   8   sector
 *     24   4   device
 *     28   4   writer
 *     32   4   sequence
 *     36   472 filler, pseudo-random from all of the above
 *     508  4   CRC-32 (the polynomial of zlib) of bytes 0 to 507
 *
 * The filler keeps a sector from being compressed or deduplicated away. The checksum comes last, so a sector torn
 * between two stamps fails it. A CRC finds every single flipped bit.
 */
export interface Stamp {
  /** The run that wrote it; a whole number from 0 to 2^53-1. Tells a stamp from one that an earlier run left behind. */
  run: number;
  /** The sector it was written to, counted in 512 bytes from the start of the device. */
  sector: number;
  /** The device it was written to, as an index into the devices of the run; below 2^32. */
  device: number;
  /** Below 2^32. */
  writer: number;
  /** The number of the write within the run; below 2^32. */
  sequence: number;
}

const magic = Uint8Array.from('CDSTAMP\x01', (character) => character.charCodeAt(0));
const FILLER_OFFSET = 36;
const CHECKSUM_OFFSET = SECTOR_BYTES - 4;
const zeros = new Uint8Array(SECTOR_BYTES);

/** Fills `into`, which is one sector long, with the stamp. */
export function writeStamp(into: Uint8Array, stamp: Stamp): void {
  invariant(into.length === SECTOR_BYTES, `a stamp fills a sector, not ${into.length} bytes`);
  const view = new DataView(into.buffer, into.byteOffset, into.length);
  into.set(magic);
  setUint53(view, 8, stamp.run);
  setUint53(view, 16, stamp.sector);
  view.setUint32(24, stamp.device, true);
  view.setUint32(28, stamp.writer, true);
  view.setUint32(32, stamp.sequence, true);
  const filler = new Random(crc32(into.subarray(0, FILLER_OFFSET)));
  for (let offset = FILLER_OFFSET; offset < CHECKSUM_OFFSET; offset += 4) {
    view.setUint32(offset, filler.uint32(), true);
  }
  view.setUint32(CHECKSUM_OFFSET, crc32(into.subarray(0, CHECKSUM_OFFSET)), true);
}

/** The bytes of a write of `sectorCount` sectors, the first of which has this stamp. */
export function stampedSectors(first: Stamp, sectorCount: number): Uint8Array {
  const bytes = new Uint8Array(sectorCount * SECTOR_BYTES);
  for (let index = 0; index < sectorCount; index++) {
    const sector = bytes.subarray(index * SECTOR_BYTES, (index + 1) * SECTOR_BYTES);
    writeStamp(sector, { ...first, sector: first.sector + index });
  }
  return bytes;
}

/** The stamp that fills `sector`, or `zero` if all its bytes are zero, or `garbage` if it is neither. */
export function readStamp(sector: Uint8Array): Stamp | 'zero' | 'garbage' {
  invariant(sector.length === SECTOR_BYTES, `a stamp fills a sector, not ${sector.length} bytes`);
  if (sector[0] === 0) return Buffer.compare(sector, zeros) === 0 ? 'zero' : 'garbage';
  const view = new DataView(sector.buffer, sector.byteOffset, sector.length);
  const intact =
    magic.every((byte, index) => sector[index] === byte) &&
    view.getUint32(CHECKSUM_OFFSET, true) === crc32(sector.subarray(0, CHECKSUM_OFFSET));
  if (!intact) return 'garbage';
  return {
    run: getUint53(view, 8),
    sector: getUint53(view, 16),
    device: view.getUint32(24, true),
    writer: view.getUint32(28, true),
    sequence: view.getUint32(32, true),
  };
}

/** A run ID that no other run is likely to have. */
export function freshRun(): number {
  return Math.floor(Math.random() * Number.MAX_SAFE_INTEGER);
}

function setUint53(view: DataView, offset: number, value: number): void {
  invariant(Number.isSafeInteger(value) && value >= 0, `a stamp cannot hold ${value}`);
  view.setUint32(offset, value % 2 ** 32, true);
  view.setUint32(offset + 4, Math.floor(value / 2 ** 32), true);
}

function getUint53(view: DataView, offset: number): number {
  return view.getUint32(offset, true) + view.getUint32(offset + 4, true) * 2 ** 32;
}
