import { SECTOR_BYTES } from '../runtime/sizes.js';

export interface ByteRange {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

export function endOf(range: ByteRange): number {
  return range.offsetBytes + range.lengthBytes;
}

/** What two ranges have in common; undefined if that is nothing. */
export function intersection(a: ByteRange, b: ByteRange): ByteRange | undefined {
  const offsetBytes = Math.max(a.offsetBytes, b.offsetBytes);
  const lengthBytes = Math.min(endOf(a), endOf(b)) - offsetBytes;
  return lengthBytes > 0 ? { offsetBytes, lengthBytes } : undefined;
}

/** The range grown to whole sectors, or to other steps; it may reach past the end of the device. */
export function aligned({ offsetBytes, lengthBytes }: ByteRange, stepBytes = SECTOR_BYTES): ByteRange {
  const start = Math.floor(offsetBytes / stepBytes) * stepBytes;
  const end = Math.ceil((offsetBytes + lengthBytes) / stepBytes) * stepBytes;
  return { offsetBytes: start, lengthBytes: end - start };
}

export function covers(outer: ByteRange, inner: ByteRange): boolean {
  return outer.offsetBytes <= inner.offsetBytes && endOf(inner) <= endOf(outer);
}
