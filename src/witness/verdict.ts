import type { Defect, DefectKind } from './contents.js';
import type { Window } from './history.js';

/** A write that decides a verdict, and the sector of the copy that shows it. */
export interface Evidence {
  /** Number of the write within the run. */
  sequence: number;
  writer: number;
  /** ID of the device. */
  device: string;
  /** The range that the write covers, in bytes. */
  offsetBytes: number;
  lengthBytes: number;
  /** Number of the event of sending it. */
  invoke: number;
  /** Number of the event of seeing it succeed, or Infinity (null in JSON). */
  ack: number;
  /** First byte of the sector of that range by which the copy shows whether it has the write. */
  sectorOffsetBytes: number;
  /** What the copy holds there: the sequence number of a write, or `initial`. */
  holds: number | 'initial';
}

/** What was judged. A sector-write is one sector of one write. */
export interface Counts {
  sectors: number;
  included: number;
  excluded: number;
}

/** Why a copy is not crash-consistent. */
export type Reason =
  | DefectKind
  /** It lacks a write that was acknowledged before the copy was requested. */
  | 'lost-write'
  /** It has a write that was sent only after the copy had completed. */
  | 'future-write'
  /** It has a write, but lacks one that was acknowledged before that one was sent. */
  | 'precedence';

interface Judged {
  /** IDs of the devices that were judged together. */
  devices: string[];
  /** The events between which the instant of the copy must lie. */
  window: Window;
  counts: Counts;
}

export interface Consistent extends Judged {
  consistent: true;
  /** The instants of a power loss that could have left this copy: all of these and no others. */
  interval: Window;
}

export interface Inconsistent extends Judged {
  consistent: false;
  reason: Reason;
  witness: {
    /** The write sent last of those that the copy has. */
    included: Evidence | undefined;
    /** The write acknowledged first of those that the copy lacks. */
    excluded: Evidence | undefined;
    /** The first sector that nothing explains, and how many there are. */
    defect: Defect | undefined;
    defectCount: number;
  };
}

export type Verdict = Consistent | Inconsistent;

/** The verdict as lines of text for people. */
export function describeVerdict(verdict: Verdict): string {
  const { devices, counts, window } = verdict;
  const scope = `${devices.length === 1 ? 'device' : 'devices'} ${devices.join(', ')}`;
  const judged =
    `${counts.sectors} sectors; of the sector-writes the copy has ${counts.included} and lacks ${counts.excluded}; ` +
    `requested at event ${window.from}, complete at event ${window.to}`;
  if (verdict.consistent) {
    return [
      `crash-consistent: ${scope}`,
      `  a power loss at any instant from event ${verdict.interval.from} to event ${verdict.interval.to} could have left this copy`,
      `  ${judged}`,
    ].join('\n');
  }
  return [
    `NOT crash-consistent: ${scope}`,
    ...explanation(verdict).map((line) => `  ${line}`),
    `  ${judged}`,
  ].join('\n');
}

function explanation({ reason, witness, window }: Inconsistent): string[] {
  const { included, excluded, defect, defectCount } = witness;
  if (defect) {
    return [
      `byte ${defect.offsetBytes} of device ${defect.device} holds ${defect.found}: no write left this there (${reason})`,
      `${defectCount} ${defectCount === 1 ? 'sector' : 'sectors'} like that`,
    ];
  }
  const lines: string[] = [];
  if (excluded) {
    const holds =
      excluded.holds === 'initial' ? 'what was there before the first write' : `write ${excluded.holds}`;
    lines.push(
      `missing: ${describeWrite(excluded)}`,
      `         byte ${excluded.sectorOffsetBytes} of the copy still holds ${holds}`,
    );
  }
  if (included) lines.push(`present: ${describeWrite(included)}`);
  if (excluded && included && excluded.ack < included.invoke) {
    lines.push(
      `Write ${excluded.sequence} was acknowledged at event ${excluded.ack}, before write ${included.sequence} was sent at event ` +
        `${included.invoke}: no instant has the second without the first.`,
    );
  }
  if (excluded && excluded.ack < window.from) {
    lines.push(
      `Write ${excluded.sequence} was acknowledged at event ${excluded.ack}, before the copy was requested at event ` +
        `${window.from}: the copy lost it or is older than its request.`,
    );
  }
  if (included && included.invoke > window.to) {
    lines.push(
      `Write ${included.sequence} was sent at event ${included.invoke}, after the copy completed at event ` +
        `${window.to}: what was judged is not what was copied.`,
    );
  }
  return lines;
}

function describeWrite(write: Evidence): string {
  const ack = write.ack === Infinity ? 'never acknowledged' : `acknowledged at event ${write.ack}`;
  const lastByte = write.offsetBytes + write.lengthBytes - 1;
  return (
    `write ${write.sequence} of writer ${write.writer} to device ${write.device}, bytes ${write.offsetBytes}-${lastByte}, ` +
    `sent at event ${write.invoke}, ${ack}`
  );
}
