import type { Core } from '../core/core.js';
import { CofferdamError, invariant } from '../runtime/errors.js';
import { KiB, MiB, roundUp, SECTOR_BYTES } from '../runtime/sizes.js';

/*
 * Where things are in an overlay file, little-endian; docs/FORMAT.md says the same for readers of the format.
 *
 *      0        header
 *   4096        map: two bits per block, in sectors that have a checksum each (overlay-map.ts)
 *   dataOffset  block n of the device, if it was written, at dataOffset + n * block size; else a hole
 *
 * Every block has its place from the start, so that writing one needs no allocation that a crash could leave half
 * done, and nothing that a crash leaves can ever be taken for another block. The file is sparse.
 *
 * The header:
 *
 *      0  18  magic "cofferdam overlay\n"
 *     18   2  length of what names the base, in bytes
 *     20   4  version of the format
 *     24   4  block size
 *     28   4  zero
 *     32   8  size of the device
 *     40 440  what names the base: UTF-8, then zeros
 *    480  32  BLAKE3 of bytes 0 to 479
 *
 * It is one sector, which devices write whole or not at all, and it is written once.
 */
const magic = new TextEncoder().encode('cofferdam overlay\n');
const at = {
  baseLength: 18,
  version: 20,
  blockBytes: 24,
  reserved: 28,
  sizeBytes: 32,
  base: 40,
  checksum: 480,
} as const;
const VERSION = 1;

const HEADER_BYTES = SECTOR_BYTES;
const MAP_OFFSET_BYTES = 4 * KiB;
const LARGEST_BLOCK_BYTES = 4 * MiB;
/** The map of so many blocks takes 16 MiB of memory. */
const MOST_BLOCKS = 2 ** 26;
const LONGEST_BASE_BYTES = at.checksum - at.base;

/** Per sector of the map: the states of its blocks, two bits each, and a checksum of 8 bytes. */
export const STATE_BYTES = SECTOR_BYTES - 8;
export const BLOCKS_PER_SECTOR = 4 * STATE_BYTES;

/** Where things are in an overlay of a device of one size; all in bytes of the file. */
export interface OverlayLayout {
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly blockCount: number;
  readonly mapOffsetBytes: number;
  readonly mapBytes: number;
  readonly dataOffsetBytes: number;
  readonly fileBytes: number;
}

/**
 * The layout of a new overlay. Blocks have 4 KiB, so that file systems write whole ones; with larger devices they are
 * larger, so that the map never is.
 *
 * @throws CofferdamError DEVICE_UNSUPPORTED if the device has more than 256 TiB.
 */
export function newLayout(sizeBytes: number): OverlayLayout {
  let blockBytes = 4 * KiB;
  while (sizeBytes / blockBytes > MOST_BLOCKS) blockBytes *= 2;
  if (blockBytes > LARGEST_BLOCK_BYTES) {
    throw new CofferdamError(
      'DEVICE_UNSUPPORTED',
      `an overlay over ${sizeBytes} bytes; 256 TiB are the most`,
    );
  }
  return layoutOf(sizeBytes, blockBytes);
}

function layoutOf(sizeBytes: number, blockBytes: number): OverlayLayout {
  const blockCount = Math.ceil(sizeBytes / blockBytes);
  const mapBytes = Math.ceil(blockCount / BLOCKS_PER_SECTOR) * SECTOR_BYTES;
  const mapOffsetBytes = MAP_OFFSET_BYTES;
  const dataOffsetBytes = roundUp(mapOffsetBytes + mapBytes, blockBytes);
  const fileBytes = dataOffsetBytes + sizeBytes;
  return { sizeBytes, blockBytes, blockCount, mapOffsetBytes, mapBytes, dataOffsetBytes, fileBytes };
}

/**
 * @param base what names the contents of the base: an overlay fits no others.
 * @throws CofferdamError BAD_ARGUMENT if that is longer than 440 bytes.
 */
export function encodeHeader(layout: OverlayLayout, base: string, core: Core): Uint8Array {
  const name = new TextEncoder().encode(base);
  if (name.length > LONGEST_BASE_BYTES) {
    throw new CofferdamError('BAD_ARGUMENT', `the base is named by more than ${LONGEST_BASE_BYTES} bytes`);
  }
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(magic);
  view.setUint16(at.baseLength, name.length, true);
  view.setUint32(at.version, VERSION, true);
  view.setUint32(at.blockBytes, layout.blockBytes, true);
  view.setBigUint64(at.sizeBytes, BigInt(layout.sizeBytes), true);
  bytes.set(name, at.base);
  bytes.set(core.hash('blake3', bytes.subarray(0, at.checksum)), at.checksum);
  return bytes;
}

/** The header's bytes, or all there are in a file that is too short. */
export function headerLength(fileBytes: number): number {
  return Math.min(fileBytes, HEADER_BYTES);
}

/** What a header says, or why it is none. */
export function decodeHeader(
  bytes: Uint8Array,
  core: Core,
): { layout: OverlayLayout; base: string } | string {
  if (bytes.length < HEADER_BYTES || Buffer.compare(bytes.subarray(0, magic.length), magic) !== 0) {
    return 'it is something else';
  }
  const sum = core.hash('blake3', bytes.subarray(0, at.checksum));
  if (Buffer.compare(sum, bytes.subarray(at.checksum, SECTOR_BYTES)) !== 0) {
    return 'its header does not match its checksum';
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = view.getUint32(at.version, true);
  if (version !== VERSION) return `it has format version ${version}, this program knows version ${VERSION}`;
  const blockBytes = view.getUint32(at.blockBytes, true);
  const sizeBytes = Number(view.getBigUint64(at.sizeBytes, true));
  const baseLength = view.getUint16(at.baseLength, true);
  if (
    !isBlockSize(blockBytes) ||
    !(sizeBytes / blockBytes <= MOST_BLOCKS) ||
    baseLength > LONGEST_BASE_BYTES
  ) {
    return 'its header makes no sense';
  }
  invariant(Number.isSafeInteger(sizeBytes), 'so many blocks of that size are less than 2^53 bytes');
  const base = new TextDecoder().decode(bytes.subarray(at.base, at.base + baseLength));
  return { layout: layoutOf(sizeBytes, blockBytes), base };
}

function isBlockSize(bytes: number): boolean {
  return bytes >= 4 * KiB && bytes <= LARGEST_BLOCK_BYTES && Number.isInteger(Math.log2(bytes));
}
