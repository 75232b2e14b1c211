import fc from 'fast-check';
import { INITIAL, type Contents } from '#src/witness/contents';
import { History, type Window } from '#src/witness/history';
import { contentsAfterPowerLoss, writesOf } from './power-loss.js';

/** A history of a few writes to a few sectors, and what a copy of the devices might hold. */
export interface SmallCase {
  history: History;
  contents: Contents[];
  window: Window;
}

type Step =
  { kind: 'write'; device: number; first: number; count: number } | { kind: 'ack' | 'fail'; pick: number };

const areas = [
  { id: 'a', areaOffsetBytes: 0, areaLengthBytes: 512 },
  { id: 'b', areaOffsetBytes: 1024, areaLengthBytes: 1024 },
  { id: 'c', areaOffsetBytes: 512, areaLengthBytes: 512 },
];

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant('write' as const),
      device: fc.nat(2),
      first: fc.nat(1),
      count: fc.nat(1),
    }),
  },
  { weight: 5, arbitrary: fc.record({ kind: fc.constant('ack' as const), pick: fc.nat(5) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('fail' as const), pick: fc.nat(5) }) },
);

/**
 * Three kinds of copies, so that both verdicts come up often: what a power loss left; the same with one sector changed;
 * and any mixture of the contents that the sectors ever had.
 */
export const smallCases: fc.Arbitrary<SmallCase> = fc
  .record({
    steps: fc.array(step, { minLength: 6, maxLength: 30 }),
    copy: fc.constantFrom('power-loss' as const, 'changed' as const, 'mixture' as const, 'mixture' as const),
    requestAt: fc.nat(100),
    completeAt: fc.nat(100),
    instant: fc.nat(100),
    choices: fc.array(fc.nat(1000), { minLength: 6, maxLength: 6 }),
  })
  .map(({ steps, copy, requestAt, completeAt, instant, choices }) => {
    const history = play(steps, [requestAt, completeAt]);
    const window = history.windowOf(0);
    const at = window.from + 0.5 + (instant % (window.to - window.from));
    const contents = areas.map((_, device) => contentsFrom(history, device, at, copy === 'mixture', choices));
    if (copy === 'changed') changeOne(history, contents, choices);
    return { history, contents, window };
  });

/** Never has two writes to a sector outstanding; one that failed is not outstanding any more. */
function play(steps: readonly Step[], marks: [number, number]): History {
  const history = new History({ run: 1, seed: 0, areas });
  const [requestAt, completeAt] = marks.map((mark) => mark % (steps.length + 1)).sort((a, b) => a - b);
  const outstanding: number[] = [];
  for (let index = 0; index <= steps.length; index++) {
    if (index === requestAt) history.requestCopy();
    if (index === completeAt) history.completeCopy(0);
    const next = steps[index];
    if (next?.kind === 'write') {
      const sequence = sendIfFree(history, outstanding, next);
      if (sequence !== undefined) outstanding.push(sequence);
    } else if (next && outstanding.length > 0) {
      const [sequence] = outstanding.splice(next.pick % outstanding.length, 1);
      if (next.kind === 'ack') history.ack(sequence ?? NaN);
    }
  }
  return history;
}

function sendIfFree(
  history: History,
  outstanding: readonly number[],
  { device, first, count }: { device: number; first: number; count: number },
): number | undefined {
  const area = areas[device];
  if (!area) return undefined;
  const sectors = area.areaLengthBytes / 512;
  const index = first % sectors;
  const sectorCount = Math.min(count + 1, sectors - index);
  const firstSector = area.areaOffsetBytes / 512 + index;
  const isTaken = outstanding.some((sequence) => {
    const write = history.writes[sequence];
    return (
      write?.device === device &&
      write.firstSector < firstSector + sectorCount &&
      firstSector < write.firstSector + write.sectorCount
    );
  });
  return isTaken ? undefined : history.invoke(0, device, firstSector, sectorCount);
}

function contentsFrom(
  history: History,
  device: number,
  instant: number,
  isMixture: boolean,
  choices: readonly number[],
): Contents {
  const area = areas[device];
  const holds = Int32Array.from({ length: (area?.areaLengthBytes ?? 0) / 512 }, (_, index) => {
    const writes = writesOf(history, device, (area?.areaOffsetBytes ?? 0) / 512 + index);
    const possible = isMixture
      ? [INITIAL, ...writes.map(({ sequence }) => sequence)]
      : [...contentsAfterPowerLoss(writes, instant)];
    return possible[(choices[device * 2 + index] ?? 0) % possible.length] ?? INITIAL;
  });
  return { device, holds, defectCount: 0, firstDefect: undefined };
}

function changeOne(history: History, contents: readonly Contents[], choices: readonly number[]): void {
  const content = contents[(choices[0] ?? 0) % contents.length];
  const area = areas[content?.device ?? -1];
  if (!content || !area) return;
  const index = (choices[1] ?? 0) % content.holds.length;
  const writes = writesOf(history, content.device, area.areaOffsetBytes / 512 + index);
  const possible = [INITIAL, ...writes.map(({ sequence }) => sequence)];
  content.holds[index] = possible[(choices[2] ?? 0) % possible.length] ?? INITIAL;
}
