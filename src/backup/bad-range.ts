/** Bytes of a device that cannot be had from an image. */
export interface BadRange {
  offsetBytes: number;
  lengthBytes: number;
  /** Why, for people. */
  reason: string;
}

/** In order, neighbours with the same reason made one. */
export function mergeRanges(ranges: readonly BadRange[]): BadRange[] {
  const merged: BadRange[] = [];
  for (const range of ranges.toSorted((a, b) => a.offsetBytes - b.offsetBytes)) {
    const last = merged.at(-1);
    const isNext = last && last.offsetBytes + last.lengthBytes === range.offsetBytes;
    if (isNext && last.reason === range.reason) last.lengthBytes += range.lengthBytes;
    else merged.push({ ...range });
  }
  return merged;
}
