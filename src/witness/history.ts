import { CofferdamError } from '../runtime/errors.js';
import { checkAreas, firstSectorOf, sectorCountOf, type Area } from './area.js';

/** What a history is about. All areas hold zeros before the first write. */
export interface HistoryHeader {
  /** The run whose stamps this history explains. */
  run: number;
  /** The seed that the workload was run with. */
  seed: number;
  /** Writes and stamps name a device by its index in this list. */
  areas: readonly Area[];
}

/** A write as the clients saw it. */
export interface Write {
  /** Number of the write within the run. */
  readonly sequence: number;
  readonly writer: number;
  /** Index of the device. */
  readonly device: number;
  /** Counted from the start of the device. */
  readonly firstSector: number;
  readonly sectorCount: number;
  /** Number of the event of sending it. */
  readonly invoke: number;
  /** Number of the event of seeing it succeed, or Infinity. */
  readonly ack: number;
}

/** The events between which a copy was made. */
export interface CopyMarks {
  readonly copy: number;
  readonly requested: number;
  /** Undefined if the copy did not complete. */
  readonly completed: number | undefined;
}

/** A span of event numbers. */
export interface Window {
  from: number;
  to: number;
}

/** What is recorded; `event` is its number. */
export type HistoryEvent =
  | {
      event: number;
      type: 'invoke';
      write: number;
      writer: number;
      device: number;
      sector: number;
      sectors: number;
    }
  | { event: number; type: 'ack'; write: number }
  | { event: number; type: 'copy-requested' | 'copy-completed'; copy: number };

type Mutable<T> = { -readonly [Key in keyof T]: T[Key] };

/**
 * What clients saw: which writes they sent and which of them succeeded, in one order.
 *
 * Invariants:
 *
 * 1. Events are numbered 1, 2, 3, ... in the order in which they are recorded. All are recorded in one process: a
 *    write's invoke before its request is sent, its ack after its answer has come. So if the ack of one write has a
 *    lower number than the invoke of another, the first had succeeded before the second was sent.
 * 2. Writes are numbered 0, 1, 2, ... in the order of their invokes.
 * 3. A write lies within the area of its device. It is acknowledged at most once; one that failed, or whose outcome is
 *    unknown, never is.
 */
export class History {
  #eventCount = 0;
  readonly #writes: Mutable<Write>[] = [];
  readonly #copies: Mutable<CopyMarks>[] = [];

  /**
   * @param onEvent is told each event as it is recorded.
   * @throws CofferdamError BAD_ARGUMENT, DUPLICATE_DEVICE
   */
  constructor(
    readonly header: HistoryHeader,
    private readonly onEvent: (event: HistoryEvent) => void = () => {},
  ) {
    checkAreas(header.areas);
  }

  /** How many events there are, which is also the number of the last one. */
  get eventCount(): number {
    return this.#eventCount;
  }

  /** The writes in the order in which they were sent; each stands at the index of its sequence number. */
  get writes(): readonly Write[] {
    return this.#writes;
  }

  /** The copies in the order in which they were requested; each stands at the index of its number. */
  get copies(): readonly CopyMarks[] {
    return this.#copies;
  }

  /**
   * Records that a write is about to be sent.
   *
   * @param device index of the device.
   * @param firstSector counted from the start of the device.
   * @returns the write's sequence number.
   * @throws CofferdamError BAD_HISTORY if the write is not within the area of a device.
   */
  invoke(writer: number, device: number, firstSector: number, sectorCount: number): number {
    const area = this.header.areas[device];
    if (!area)
      throw new CofferdamError('BAD_HISTORY', `a write goes to device ${device}, which does not exist`);
    const index = firstSector - firstSectorOf(area);
    if (!(index >= 0 && sectorCount >= 1 && index + sectorCount <= sectorCountOf(area))) {
      throw new CofferdamError(
        'BAD_HISTORY',
        `${area.id}: a write of ${sectorCount} sectors at sector ${firstSector} is not within the witness area`,
        { device: area.id },
      );
    }
    const sequence = this.#writes.length;
    const event = ++this.#eventCount;
    this.#writes.push({ sequence, writer, device, firstSector, sectorCount, invoke: event, ack: Infinity });
    this.onEvent({
      event,
      type: 'invoke',
      write: sequence,
      writer,
      device,
      sector: firstSector,
      sectors: sectorCount,
    });
    return sequence;
  }

  /**
   * Records that a write has succeeded.
   *
   * @throws CofferdamError BAD_HISTORY if it was never sent or was acknowledged before.
   */
  ack(sequence: number): void {
    const write = this.#writes[sequence];
    if (!write)
      throw new CofferdamError('BAD_HISTORY', `write ${sequence} is acknowledged but was never sent`);
    if (write.ack !== Infinity)
      throw new CofferdamError('BAD_HISTORY', `write ${sequence} is acknowledged twice`);
    write.ack = ++this.#eventCount;
    this.onEvent({ event: write.ack, type: 'ack', write: sequence });
  }

  /**
   * Records that a copy is about to be requested.
   *
   * @returns the copy's number; the first is 0.
   */
  requestCopy(): number {
    const copy = this.#copies.length;
    const requested = ++this.#eventCount;
    this.#copies.push({ copy, requested, completed: undefined });
    this.onEvent({ event: requested, type: 'copy-requested', copy });
    return copy;
  }

  /**
   * Records that a copy has completed.
   *
   * @throws CofferdamError BAD_HISTORY if it was never requested or has completed before.
   */
  completeCopy(copy: number): void {
    const marks = this.#copies[copy];
    if (!marks) throw new CofferdamError('BAD_HISTORY', `copy ${copy} completes but was never requested`);
    if (marks.completed !== undefined)
      throw new CofferdamError('BAD_HISTORY', `copy ${copy} completes twice`);
    marks.completed = ++this.#eventCount;
    this.onEvent({ event: marks.completed, type: 'copy-completed', copy });
  }

  /**
   * The events between which the instant of a copy must lie.
   *
   * @throws CofferdamError BAD_ARGUMENT if there is no such copy or it did not complete.
   */
  windowOf(copy: number): Window {
    const marks = this.#copies[copy];
    if (marks?.completed === undefined) {
      const what = marks ? `copy ${copy} did not complete` : `there is no copy ${copy}`;
      throw new CofferdamError('BAD_ARGUMENT', `${what} in this history; name one that did`);
    }
    return { from: marks.requested, to: marks.completed };
  }
}
