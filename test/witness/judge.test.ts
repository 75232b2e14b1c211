import fc from 'fast-check';
import { expect, test } from 'vitest';
import { INITIAL, type Contents } from '#src/witness/contents';
import { History, type Window } from '#src/witness/history';
import { judge } from '#src/witness/judge';
import { describeVerdict, type Inconsistent, type Verdict } from '#src/witness/verdict';
import { possibleInstants, writesOf } from './power-loss.js';
import { testSeed } from '../support/seed.js';
import { smallCases } from './small-history.js';

const seed = testSeed();

const everything: Window = { from: 0, to: Number.MAX_SAFE_INTEGER };

/** Two devices of two sectors each. The area of `b` does not begin at its start. */
function historyOfTwo(): History {
  return new History({
    run: 1,
    seed: 0,
    areas: [
      { id: 'a', areaOffsetBytes: 0, areaLengthBytes: 1024 },
      { id: 'b', areaOffsetBytes: 4096, areaLengthBytes: 1024 },
    ],
  });
}

const A = 0;
const B = 1;
const firstSectors = [0, 8];

function send(history: History, device: number, index = 0, sectorCount = 1): number {
  return history.invoke(device + 10, device, (firstSectors[device] ?? NaN) + index, sectorCount);
}

function write(history: History, device: number, index = 0, sectorCount = 1): number {
  const sequence = send(history, device, index, sectorCount);
  history.ack(sequence);
  return sequence;
}

function holding(a: number[], b: number[]): Contents[] {
  return [a, b].map((holds, device) => ({
    device,
    holds: Int32Array.from(holds),
    defectCount: 0,
    firstDefect: undefined,
  }));
}

function inconsistent(verdict: Verdict): Inconsistent {
  if (verdict.consistent) throw new Error(`judged consistent:\n${describeVerdict(verdict)}`);
  return verdict;
}

/** The rule that docs/CONSISTENCY.md warns of: it looks at the last included and the first excluded write of each sector. */
function naiveRule(history: History, contents: readonly Contents[]): boolean {
  return ruleOver(history, contents, (excluded) => excluded.slice(0, 1));
}

/** Another tempting rule: what was overwritten since is of no interest, so only the newest write of a sector counts. */
function newestOnlyRule(history: History, contents: readonly Contents[]): boolean {
  return ruleOver(history, contents, (excluded) => excluded.slice(-1));
}

function ruleOver<T extends { ack: number }>(
  history: History,
  contents: readonly Contents[],
  look: (excluded: History['writes'][number][]) => T[],
): boolean {
  let maxInvoke = -Infinity;
  let minAck = Infinity;
  for (const { device, holds } of contents) {
    const firstSector = (history.header.areas[device]?.areaOffsetBytes ?? NaN) / 512;
    holds.forEach((held, index) => {
      const writes = writesOf(history, device, firstSector + index);
      const included = writes.filter(({ sequence }) => sequence <= held);
      const excluded = writes.filter(({ sequence }) => sequence > held);
      maxInvoke = Math.max(maxInvoke, included.at(-1)?.invoke ?? -Infinity);
      minAck = Math.min(minAck, ...look(excluded).map(({ ack }) => ack));
    });
  }
  return maxInvoke <= minAck;
}

test(`the judge agrees with trying every power loss, on random histories`, () => {
  const seen = { consistent: 0, 'lost-write': 0, 'future-write': 0, precedence: 0 };
  let foolsNaive = 0;
  let foolsNewestOnly = 0;
  const numRuns = 6000;
  fc.assert(
    fc.property(smallCases, ({ history, contents, window }) => {
      const instants = possibleInstants(history, contents, window);
      const verdict = judge(history, contents, window);
      if (verdict.consistent) {
        const { from, to } = verdict.interval;
        expect(instants).toEqual(Array.from({ length: (to - from) * 2 + 1 }, (_, index) => from + index / 2));
        seen.consistent++;
        return;
      }
      expect(instants).toEqual([]);
      expectProof(history, contents, verdict);
      seen[verdict.reason as 'precedence']++;
      if (possibleInstants(history, contents, { from: 0, to: history.eventCount }).length === 0) {
        if (naiveRule(history, contents)) foolsNaive++;
        if (newestOnlyRule(history, contents)) foolsNewestOnly++;
      }
    }),
    { seed, numRuns },
  );
  // A generator that hardly ever makes one of the cases would prove nothing about it.
  expect(seen.consistent).toBeGreaterThan(numRuns / 5);
  expect(numRuns - seen.consistent).toBeGreaterThan(numRuns / 5);
  for (const reason of ['lost-write', 'future-write', 'precedence'] as const) {
    expect(seen[reason], reason).toBeGreaterThan(numRuns / 100);
  }
  expect(foolsNaive).toBeGreaterThan(0);
  expect(foolsNewestOnly).toBeGreaterThan(0);
});

/** Checks that what the verdict shows is true of the history and the copy, and proves what it claims. */
function expectProof(
  history: History,
  contents: readonly Contents[],
  { reason, witness, window }: Inconsistent,
): void {
  const { included, excluded } = witness;
  for (const [evidence, isIncluded] of [
    [included, true],
    [excluded, false],
  ] as const) {
    if (!evidence) continue;
    const device = history.header.areas.findIndex(({ id }) => id === evidence.device);
    const sector = evidence.sectorOffsetBytes / 512;
    const recorded = history.writes[evidence.sequence];
    expect(evidence).toMatchObject({
      invoke: recorded?.invoke,
      ack: recorded?.ack,
      writer: recorded?.writer,
      offsetBytes: (recorded?.firstSector ?? NaN) * 512,
      lengthBytes: (recorded?.sectorCount ?? NaN) * 512,
    });
    expect(writesOf(history, device, sector)).toContain(recorded);
    const firstSector = (history.header.areas[device]?.areaOffsetBytes ?? NaN) / 512;
    const held = contents[device]?.holds[sector - firstSector] ?? NaN;
    expect(evidence.holds).toBe(held === INITIAL ? 'initial' : held);
    expect(evidence.sequence <= held).toBe(isIncluded);
  }
  if (reason === 'lost-write') expect(excluded?.ack).toBeLessThan(window.from);
  if (reason === 'future-write') expect(included?.invoke).toBeGreaterThan(window.to);
  if (reason === 'precedence') expect(excluded?.ack).toBeLessThan(included?.invoke ?? NaN);
}

test('a write that timed out does not hide a later one of its sector that was acknowledged and is missing', () => {
  const history = historyOfTwo();
  const copy = history.requestCopy();
  const timedOut = send(history, A);
  const missing = write(history, A);
  const dependent = write(history, B);
  history.completeCopy(copy);
  const contents = holding([INITIAL, INITIAL], [dependent, INITIAL]);

  const verdict = inconsistent(judge(history, contents, history.windowOf(copy)));
  expect(verdict.reason).toBe('precedence');
  expect(verdict.witness.excluded?.sequence).toBe(missing);
  expect(verdict.witness.included?.sequence).toBe(dependent);
  expect(naiveRule(history, contents)).toBe(true);

  const withTimedOut = holding([timedOut, INITIAL], [dependent, INITIAL]);
  expect(inconsistent(judge(history, withTimedOut, history.windowOf(copy))).witness.excluded).toMatchObject({
    sequence: missing,
    holds: timedOut,
  });
});

test('a missing write counts although it was overwritten since', () => {
  const history = historyOfTwo();
  const copy = history.requestCopy();
  const missing = write(history, A);
  const dependent = write(history, B);
  const overwriting = send(history, A);
  history.completeCopy(copy);
  history.ack(overwriting);
  const contents = holding([INITIAL, INITIAL], [dependent, INITIAL]);

  const verdict = inconsistent(judge(history, contents, history.windowOf(copy)));
  expect(verdict.reason).toBe('precedence');
  expect(verdict.witness.excluded?.sequence).toBe(missing);
  expect(newestOnlyRule(history, contents)).toBe(true);
});

test('a write that the copy holds only under a later one still counts as included', () => {
  const history = historyOfTwo();
  const missing = write(history, A);
  write(history, B);
  const last = send(history, B);
  const verdict = inconsistent(judge(history, holding([INITIAL, INITIAL], [last, INITIAL]), everything));
  expect(verdict.witness).toMatchObject({ excluded: { sequence: missing }, included: { sequence: last } });
  expect(verdict.counts).toEqual({ sectors: 4, included: 2, excluded: 1 });
});

test('a write in flight may be there in part', () => {
  const history = historyOfTwo();
  const copy = history.requestCopy();
  const torn = send(history, A, 0, 2);
  history.completeCopy(copy);
  history.ack(torn);
  for (const a of [
    [INITIAL, INITIAL],
    [torn, INITIAL],
    [INITIAL, torn],
    [torn, torn],
  ]) {
    expect(judge(history, holding(a, [INITIAL, INITIAL]), history.windowOf(copy)).consistent).toBe(true);
  }
});

test('half of an acknowledged write is not enough for one that depends on it', () => {
  const history = historyOfTwo();
  const torn = write(history, A, 0, 2);
  const dependent = write(history, B);
  const contents = holding([torn, INITIAL], [dependent, INITIAL]);
  expect(inconsistent(judge(history, contents, everything)).witness.excluded).toMatchObject({
    sequence: torn,
    offsetBytes: 0,
    lengthBytes: 1024,
    sectorOffsetBytes: 512,
    holds: 'initial',
  });
});

test('the initial content passes only while nothing was acknowledged before the request', () => {
  const early = historyOfTwo();
  const copy = early.requestCopy();
  write(early, A);
  early.completeCopy(copy);
  const initial = holding([INITIAL, INITIAL], [INITIAL, INITIAL]);
  expect(judge(early, initial, early.windowOf(copy))).toMatchObject({
    consistent: true,
    interval: { from: 1, to: 3 },
  });

  const late = historyOfTwo();
  const missing = write(late, A);
  late.completeCopy(late.requestCopy());
  const verdict = inconsistent(judge(late, initial, late.windowOf(0)));
  expect(verdict).toMatchObject({ reason: 'lost-write', witness: { excluded: { sequence: missing } } });
  expect(verdict.witness.included).toBeUndefined();
});

test('an acknowledged write that no server applied is found, also after one that timed out', () => {
  const history = historyOfTwo();
  send(history, A);
  const lost = write(history, A);
  const other = write(history, B);
  history.completeCopy(history.requestCopy());
  const verdict = inconsistent(
    judge(history, holding([INITIAL, INITIAL], [other, INITIAL]), history.windowOf(0)),
  );
  expect(verdict).toMatchObject({ reason: 'lost-write', witness: { excluded: { sequence: lost } } });
});

test('a write sent after the completion may not be in the copy', () => {
  const history = historyOfTwo();
  history.completeCopy(history.requestCopy());
  const late = send(history, A);
  const verdict = inconsistent(
    judge(history, holding([late, INITIAL], [INITIAL, INITIAL]), history.windowOf(0)),
  );
  expect(verdict).toMatchObject({ reason: 'future-write', witness: { included: { sequence: late } } });
});

test('each device alone can be consistent when the group is not', () => {
  const history = historyOfTwo();
  const copy = history.requestCopy();
  write(history, A);
  const dependent = write(history, B);
  history.completeCopy(copy);
  const contents = holding([INITIAL, INITIAL], [dependent, INITIAL]);
  const window = history.windowOf(copy);
  expect(judge(history, contents, window).consistent).toBe(false);
  const alone = contents.map((content) => judge(history, [content], window));
  expect(alone).toMatchObject([
    { consistent: true, devices: ['a'], counts: { sectors: 2, included: 0, excluded: 1 } },
    { consistent: true, devices: ['b'], counts: { sectors: 2, included: 1, excluded: 0 } },
  ]);
});

test('several copies of one run are each judged in their own window', () => {
  const history = historyOfTwo();
  const first = history.requestCopy();
  history.completeCopy(first);
  const written = write(history, A);
  const second = history.requestCopy();
  history.completeCopy(second);
  const older = holding([INITIAL, INITIAL], [INITIAL, INITIAL]);
  const newer = holding([written, INITIAL], [INITIAL, INITIAL]);
  const reasons = [first, second].map((copy) =>
    [older, newer].map((contents) => {
      const verdict = judge(history, contents, history.windowOf(copy));
      return verdict.consistent ? 'consistent' : verdict.reason;
    }),
  );
  expect(reasons).toEqual([
    ['consistent', 'future-write'],
    ['lost-write', 'consistent'],
  ]);
});

test('a window without an instant, or of a copy that did not complete, is refused', () => {
  const history = historyOfTwo();
  const copy = history.requestCopy();
  const contents = holding([INITIAL, INITIAL], [INITIAL, INITIAL]);
  expect(() => judge(history, contents, { from: 2, to: 1 })).toThrow(
    expect.objectContaining({ code: 'BAD_ARGUMENT' }),
  );
  expect(() => history.windowOf(copy)).toThrow(expect.objectContaining({ code: 'BAD_ARGUMENT' }));
  expect(() => history.windowOf(7)).toThrow(expect.objectContaining({ code: 'BAD_ARGUMENT' }));
});

test('the proof is printed with both writes', () => {
  const history = historyOfTwo();
  const copy = history.requestCopy();
  write(history, A, 1);
  const dependent = write(history, B, 0, 2);
  history.completeCopy(copy);
  const contents = holding([INITIAL, INITIAL], [dependent, dependent]);
  expect(describeVerdict(judge(history, contents, history.windowOf(copy)))).toBe(
    [
      'NOT crash-consistent: devices a, b',
      '  missing: write 0 of writer 10 to device a, bytes 512-1023, sent at event 2, acknowledged at event 3',
      '           byte 512 of the copy still holds what was there before the first write',
      '  present: write 1 of writer 11 to device b, bytes 4096-5119, sent at event 4, acknowledged at event 5',
      '  Write 0 was acknowledged at event 3, before write 1 was sent at event 4: no instant has the second without the first.',
      '  4 sectors; of the sector-writes the copy has 2 and lacks 1; requested at event 1, complete at event 6',
    ].join('\n'),
  );
});
