import { MiB } from '../runtime/sizes.js';
import { appendExtent, type BlockDevice, type Extent } from './block-device.js';
import { endOf, intersection, type ByteRange } from './byte-range.js';

export type Content =
  | { kind: 'data'; bytes: Uint8Array }
  | { kind: 'zeroes'; mayTrim: boolean }
  /** The range may read as anything. */
  | { kind: 'trim' };

/** A write, write-zeroes or trim that a device answered and its medium may not have. */
export class Change implements ByteRange {
  /** Whether the medium may hold it, in whole or in part. */
  reachedMedium = false;
  next: Change | undefined;

  constructor(
    /** Counts up from 1 in the order in which changes were answered. */
    readonly position: number,
    readonly offsetBytes: number,
    readonly lengthBytes: number,
    readonly content: Content,
  ) {}

  /** Brings the part of this change that lies in `range` to a device. */
  async applyTo(device: BlockDevice, range: ByteRange, fua: boolean): Promise<void> {
    const { content, offsetBytes } = this;
    const part = intersection(this, range);
    if (!part) return;
    if (content.kind === 'trim') {
      await device.trim(part.offsetBytes, part.lengthBytes);
    } else if (content.kind === 'zeroes') {
      await device.writeZeroes(part.offsetBytes, part.lengthBytes, { fua, mayTrim: content.mayTrim });
    } else {
      const start = part.offsetBytes - offsetBytes;
      await device.write(part.offsetBytes, content.bytes.subarray(start, start + part.lengthBytes), { fua });
    }
  }
}

/**
 * Changes in the order in which they were answered: a chain that grows at one end and is shortened at the other.
 *
 * Invariants:
 * 1. Positions grow by one along the chain.
 * 2. A change that was dropped still leads to all that came after it. So whoever remembers where the chain began can walk
 *    from there to today's end, whatever was dropped meanwhile.
 */
export class ChangeLog {
  /** Stands before the first change: the last one dropped, or a dummy. */
  #before = new Change(0, 0, 0, { kind: 'trim' });
  #last = this.#before;
  #heldBytes = 0;

  /** The newest change, or one that was dropped when there are none. */
  get last(): Change {
    return this.#last;
  }

  /** Where the chain begins now. {@link changesAfter} it are all the changes, and those still to come. */
  get beginning(): Change {
    return this.#before;
  }

  /** Memory is bounded, and so is the time that a read takes to look through the log. */
  get isFull(): boolean {
    return this.#heldBytes >= 32 * MiB || this.#last.position - this.#before.position >= 4096;
  }

  append(offsetBytes: number, lengthBytes: number, content: Content): Change {
    const change = new Change(this.#last.position + 1, offsetBytes, lengthBytes, content);
    this.#last.next = change;
    this.#last = change;
    this.#heldBytes += heldBytes(change);
    return change;
  }

  holds(change: Change): boolean {
    return change.position > this.#before.position;
  }

  /** Drops every change up to and including this one. */
  dropThrough(change: Change): void {
    while (this.holds(change) && this.#before.next) {
      this.#before = this.#before.next;
      this.#heldBytes -= heldBytes(this.#before);
    }
  }

  /** All changes from the first one held up to and including this one. */
  through(change: Change): Change[] {
    const changes: Change[] = [];
    for (const one of changesAfter(this.#before)) {
      if (one.position > change.position) break;
      changes.push(one);
    }
    return changes;
  }
}

export function* changesAfter(change: Change): Generator<Change> {
  for (let next = change.next; next; next = next.next) yield next;
}

/** Lays what was written after `beginning` over bytes that were read from the medium. */
export function overlay(beginning: Change, offsetBytes: number, into: Uint8Array): void {
  const end = offsetBytes + into.byteLength;
  // Every read walks the whole log, so what does not concern it must cost next to nothing.
  for (let change = beginning.next; change; change = change.next) {
    const start = Math.max(offsetBytes, change.offsetBytes);
    const stop = Math.min(end, change.offsetBytes + change.lengthBytes);
    if (start >= stop || change.content.kind === 'trim') continue;
    if (change.content.kind === 'zeroes') {
      into.fill(0, start - offsetBytes, stop - offsetBytes);
    } else {
      const { bytes } = change.content;
      into.set(bytes.subarray(start - change.offsetBytes, stop - change.offsetBytes), start - offsetBytes);
    }
  }
}

/** Beyond all devices. */
const nowhere: ByteRange = { offsetBytes: Infinity, lengthBytes: 0 };

/** Makes what was written after `beginning` data in an allocation map of the medium. */
export function overlayAllocation(beginning: Change, extents: readonly Extent[]): Extent[] {
  const written = [...changesAfter(beginning)].filter((change) => change.content.kind !== 'trim');
  written.sort((a, b) => a.offsetBytes - b.offsetBytes);
  const result: Extent[] = [];
  let index = 0;
  for (const { offsetBytes, lengthBytes, kind } of extents) {
    const end = offsetBytes + lengthBytes;
    for (let at = offsetBytes; at < end;) {
      while (endOf(written[index] ?? nowhere) <= at) index++;
      const next = written[index];
      const inside = next !== undefined && next.offsetBytes <= at;
      const stop = Math.min(end, inside ? endOf(next) : (next?.offsetBytes ?? end));
      appendExtent(result, { offsetBytes: at, lengthBytes: stop - at, kind: inside ? 'data' : kind });
      at = stop;
    }
  }
  return result;
}

function heldBytes({ content }: Change): number {
  return content.kind === 'data' ? content.bytes.byteLength : 0;
}
