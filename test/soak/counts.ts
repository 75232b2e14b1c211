/** What a soak did. Everything counts from 0 up. */
export interface Counts {
  rounds: number;
  backups: { committed: number; cutShort: number; refused: Record<string, number> };
  /** What struck, by its name. */
  faults: Record<string, number>;
  generations: { verified: number; restored: number; judged: number; notJudged: number };
  /** Writes and flushes that were answered, reads that found what was written, by the witness, fio and qemu-io. */
  clients: {
    writes: number;
    flushes: number;
    verifiedReads: number;
    failedByFault: number;
    longestWriteMs: number;
  };
  /** Sectors looked at after a round for the last write that may not be missing. */
  sectorsChecked: number;
}

export function noCounts(): Counts {
  return {
    rounds: 0,
    backups: { committed: 0, cutShort: 0, refused: {} },
    faults: {},
    generations: { verified: 0, restored: 0, judged: 0, notJudged: 0 },
    clients: { writes: 0, flushes: 0, verifiedReads: 0, failedByFault: 0, longestWriteMs: 0 },
    sectorsChecked: 0,
  };
}

/** Adds one under a name. */
export function countUnder(names: Record<string, number>, name: string): void {
  names[name] = (names[name] ?? 0) + 1;
}

/** What a process held when it was first looked at, when last, and at most. */
export interface Held {
  first: number;
  last: number;
  max: number;
}

/** One life of a serving process: from its start to the kill or the end. */
export interface Life {
  process: string;
  samples: number;
  residentBytes: Held;
  descriptors: Held;
}
