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
 * Decides what of the unflushed changes a power cut leaves: of each sector, on its own, the first few of its changes.
 * So a sector never mixes versions, and each version of it can be left, from the last one flushed to the newest. Changes
 * that the medium may have already are left there: taking part of them back would tear a sector.
 *
 * @param changes all unflushed changes, in order.
 * @param seed the same seed and changes give the same survivors.
 * @returns what to bring to the medium, in this order.
 */
export function* survivors(changes: readonly Change[], seed: number): Generator<Survivor> {
  const unitBytes = unitFor(changes);
  const left = keptPerUnit(changes, unitBytes, new Random(seed));
  const reached = changes.filter((change) => change.reachedMedium);
  for (const change of changes) {
    const units = aligned(change, unitBytes);
    const onMedium = reached
      .filter((later) => later.position >= change.position)
      .map((later) => intersection(aligned(later, unitBytes), units))
      .filter((range) => range !== undefined);
    const survives = (unit: ByteRange): boolean => {
      const more = left.get(unit.offsetBytes) ?? 0;
      left.set(unit.offsetBytes, more - 1);
      return more > 0 || onMedium.some((range) => covers(range, unit));
    };
    for (const range of runs(units, unitBytes, survives)) yield { change, range };
  }
}

/** A whole number of sectors, such that all changes together touch no more than about MAX_UNITS units. */
function unitFor(changes: readonly Change[]): number {
  const totalBytes = changes.reduce((sum, change) => sum + change.lengthBytes, 0);
  return Math.max(1, Math.ceil(totalBytes / SECTOR_BYTES / MAX_UNITS)) * SECTOR_BYTES;
}

/** By the offset of each unit: how many of its changes, from the first on, survive. */
function keptPerUnit(changes: readonly Change[], unitBytes: number, random: Random): Map<number, number> {
  const counts = new Map<number, number>();
  for (const change of changes) {
    for (const { offsetBytes } of steps(aligned(change, unitBytes), unitBytes)) {
      counts.set(offsetBytes, (counts.get(offsetBytes) ?? 0) + 1);
    }
  }
  // A cut that loses everything, or nothing, finds errors that the ones in between do not.
  const chance = random.chance(0.25) ? random.below(2) : random.unit();
  for (const [offsetBytes, count] of counts) {
    let kept = count;
    while (kept > 0 && !random.chance(chance)) kept--;
    counts.set(offsetBytes, kept);
  }
  return counts;
}

/** The longest ranges of whole units, within `units`, that survive. */
function* runs(
  units: ByteRange,
  unitBytes: number,
  survives: (unit: ByteRange) => boolean,
): Generator<ByteRange> {
  let start: number | undefined;
  for (const unit of steps(units, unitBytes)) {
    if (survives(unit)) {
      start ??= unit.offsetBytes;
    } else if (start !== undefined) {
      yield { offsetBytes: start, lengthBytes: unit.offsetBytes - start };
      start = undefined;
    }
  }
  if (start !== undefined) yield { offsetBytes: start, lengthBytes: endOf(units) - start };
}

function* steps(range: ByteRange, stepBytes: number): Generator<ByteRange> {
  for (let at = range.offsetBytes; at < endOf(range); at += stepBytes) {
    yield { offsetBytes: at, lengthBytes: stepBytes };
  }
}
