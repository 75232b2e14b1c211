import { endOf, type ByteRange } from '../devices/byte-range.js';

/** Bytes of a device that cannot be had from an image. */
export interface BadRange extends ByteRange {
  /** Why, for people. */
  readonly reason: string;
}

/** In order, neighbours with the same reason made one. */
export function mergeRanges(ranges: readonly BadRange[]): BadRange[] {
  const merged: BadRange[] = [];
  for (const range of ranges.toSorted((a, b) => a.offsetBytes - b.offsetBytes)) {
    const last = merged.at(-1);
    if (last && endOf(last) === range.offsetBytes && last.reason === range.reason) {
      merged[merged.length - 1] = { ...last, lengthBytes: last.lengthBytes + range.lengthBytes };
    } else {
      merged.push(range);
    }
  }
  return merged;
}
