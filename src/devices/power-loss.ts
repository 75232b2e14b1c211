import { Random } from '../runtime/random.js';
import { SECTOR_BYTES } from '../runtime/sizes.js';
import { aligned, covers, endOf, intersection, type ByteRange } from './byte-range.js';
import type { Change } from './change-log.js';

/** A part of a change that a power cut leaves on the medium. */
export interface Survivor {
  change: Change;
  range: ByteRange;
}

/** A cut decides about single sectors up to this many (32 MiB); beyond, about larger units, so that it ends in time. */
const MAX_UNITS = 65_536;

/**
 * Decides what of the unflushed changes a power cut leaves. Each sector stays as it was after some number of the
 * changes, a number of its own: so a sector never mixes versions, and every version of it is possible, from the last
 * one flushed to the newest. Changes that the medium may have already are left there, in part they would tear a sector.
 *
 * The numbers are drawn from a window that is drawn first. A wide window scatters, a narrow one is close to a clean stop
 * in the order of writing, and windows at the ends lose or keep everything: each breaks other wrong programs.
 *
 * @param changes all unflushed changes, in order.
 * @param seed the same seed and changes give the same survivors.
 * @returns what to bring to the medium, in this order.
 */
export function* survivors(changes: readonly Change[], seed: number): Generator<Survivor> {
  const random = new Random(seed);
  const least = random.below(changes.length + 1);
  const spread = random.below(changes.length - least + 1) + 1;
  const unitBytes = unitFor(changes);
  const kept = new Map<number, number>();
  const keptOf = (offsetBytes: number): number => {
    const count = kept.get(offsetBytes) ?? least + random.below(spread);
    kept.set(offsetBytes, count);
    return count;
  };
  const reached = changes.filter((change) => change.reachedMedium);

  for (const [index, change] of changes.entries()) {
    const units = aligned(change, unitBytes);
    const onMedium = reached
      .filter((later) => later.position >= change.position)
      .map((later) => intersection(aligned(later, unitBytes), units))
      .filter((range) => range !== undefined);
    const survives = (offsetBytes: number): boolean =>
      index < keptOf(offsetBytes) ||
      onMedium.some((range) => covers(range, { offsetBytes, lengthBytes: unitBytes }));
    for (const range of runs(units, unitBytes, survives)) yield { change, range };
  }
}

/** A whole number of sectors, such that all changes together touch no more than about MAX_UNITS units. */
function unitFor(changes: readonly Change[]): number {
  const totalBytes = changes.reduce((sum, change) => sum + change.lengthBytes, 0);
  return Math.max(1, Math.ceil(totalBytes / SECTOR_BYTES / MAX_UNITS)) * SECTOR_BYTES;
}

/** The longest ranges of whole units, within `units`, that survive. */
function* runs(
  units: ByteRange,
  unitBytes: number,
  survives: (offsetBytes: number) => boolean,
): Generator<ByteRange> {
  const end = endOf(units);
  let start: number | undefined;
  for (let at = units.offsetBytes; at < end; at += unitBytes) {
    if (survives(at)) {
      start ??= at;
    } else if (start !== undefined) {
      yield { offsetBytes: start, lengthBytes: at - start };
      start = undefined;
    }
  }
  if (start !== undefined) yield { offsetBytes: start, lengthBytes: end - start };
}
