import { readFile, writeFile } from 'node:fs/promises';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { History, type HistoryHeader } from '#src/witness/history';
import { HistoryFile, readHistory } from '#src/witness/history-file';
import { temporaryDirectory } from '../support/directory.js';
import { needs } from '../support/needs.js';
import { testSeed } from '../support/seed.js';

const seed = testSeed();

const header: HistoryHeader = {
  run: 2 ** 52 + 1,
  seed: 42,
  areas: [
    { id: 'a', areaOffsetBytes: 0, areaLengthBytes: 4096 },
    { id: 'ünï "b"\n', areaOffsetBytes: 512, areaLengthBytes: 8192 },
  ],
};

function plain(history: History): unknown {
  const { writes, copies, eventCount } = history;
  return structuredClone({ header: history.header, writes, copies, eventCount });
}

/** Events: 1 invoke, 2 invoke, 3 ack, 4 request, 5 ack, 6 completion. Lines: one more each. */
function recordSome(history: History): void {
  const first = history.invoke(3, 0, 1, 2);
  const second = history.invoke(4, 1, 9, 8);
  history.ack(second);
  const copy = history.requestCopy();
  history.ack(first);
  history.completeCopy(copy);
}

async function someLines(path: string): Promise<string[]> {
  using file = new HistoryFile(path, header);
  recordSome(file.history);
  file.flush();
  return (await readFile(path, 'utf8')).split('\n').slice(0, -1);
}

test('a history is read back as it was recorded', async () => {
  await using directory = temporaryDirectory();
  const path = directory.file('history.jsonl');
  const steps = fc.array(fc.record({ kind: fc.nat(4), pick: fc.nat(1000) }), { maxLength: 200 });
  await fc.assert(
    fc.asyncProperty(steps, async (events) => {
      const file = new HistoryFile(path, header);
      const { history } = file;
      for (const { kind, pick } of events) {
        const open = history.writes.filter(({ ack }) => ack === Infinity);
        const copying = history.copies.find(({ completed }) => completed === undefined);
        const write = open[pick % Math.max(1, open.length)];
        if (kind <= 1) history.invoke(pick, pick % 2, 1 + (pick % 7), 1);
        else if (kind === 2 && write) history.ack(write.sequence);
        else if (kind === 3) history.requestCopy();
        else if (copying) history.completeCopy(copying.copy);
      }
      file[Symbol.dispose]();
      const read = await readHistory(path);
      expect(plain(read.history)).toEqual(plain(history));
      expect(read.truncatedAtLine).toBeUndefined();
    }),
    { seed, numRuns: 50 },
  );
});

test('the file is as its comment says, so that others can write one', async () => {
  await using directory = temporaryDirectory();
  expect((await someLines(directory.file('h'))).map((line) => JSON.parse(line) as unknown)).toEqual([
    {
      format: 'cofferdam-history',
      version: 1,
      run: 2 ** 52 + 1,
      seed: 42,
      initialContent: 'zeros',
      devices: [
        { id: 'a', index: 0, areaOffsetBytes: 0, areaLengthBytes: 4096 },
        { id: 'ünï "b"\n', index: 1, areaOffsetBytes: 512, areaLengthBytes: 8192 },
      ],
    },
    { event: 1, type: 'invoke', write: 0, writer: 3, device: 0, sector: 1, sectors: 2 },
    { event: 2, type: 'invoke', write: 1, writer: 4, device: 1, sector: 9, sectors: 8 },
    { event: 3, type: 'ack', write: 1 },
    { event: 4, type: 'copy-requested', copy: 0 },
    { event: 5, type: 'ack', write: 0 },
    { event: 6, type: 'copy-completed', copy: 0 },
  ]);
});

test('a long history goes to the file in pieces, and comes back whole', async () => {
  await using directory = temporaryDirectory();
  const path = directory.file('history.jsonl');
  const file = new HistoryFile(path, header);
  for (let index = 0; index < 20_000; index++) file.history.ack(file.history.invoke(index, 0, index % 8, 1));
  expect((await readFile(path)).length).toBeGreaterThan(1_000_000);
  file[Symbol.dispose]();
  file[Symbol.dispose]();
  expect(plain((await readHistory(path)).history)).toEqual(plain(file.history));
});

test('a copy that has completed can be judged from the file while the run goes on', async () => {
  await using directory = temporaryDirectory();
  using file = new HistoryFile(directory.file('h'), header);
  file.history.invoke(0, 0, 0, 1);
  file.history.completeCopy(file.history.requestCopy());
  file.history.invoke(0, 0, 1, 1);
  const { history } = await readHistory(file.path);
  expect(history.windowOf(0)).toEqual({ from: 2, to: 3 });
  expect(history.writes.length).toBe(1);
});

test('what a killed writer leaves is read up to the last whole line, and the cut line is named', async () => {
  await using directory = temporaryDirectory();
  const path = directory.file('history.jsonl');
  const lines = (await someLines(path)).map((line) => Buffer.from(`${line}\n`));
  const whole = Buffer.concat(lines);
  // A line that lacks nothing but its newline is whole.
  const ends = lines.map((_, index) => Buffer.concat(lines.slice(0, index + 1)).length - 1);
  for (let length = 0; length <= whole.length; length++) {
    await writeFile(path, whole.subarray(0, length));
    const wholeLines = ends.filter((end) => end <= length).length;
    if (wholeLines === 0) {
      await expect(readHistory(path), `cut at ${length}`).rejects.toMatchObject({ code: 'BAD_HISTORY' });
      continue;
    }
    const { history, truncatedAtLine } = await readHistory(path);
    expect(history.eventCount, `cut at ${length}`).toBe(wholeLines - 1);
    const isCut = length > (ends[wholeLines - 1] ?? NaN) + 1;
    expect(truncatedAtLine, `cut at ${length}`).toBe(isCut ? wholeLines + 1 : undefined);
  }
});

const damages: [string, (lines: string[]) => string[], string][] = [
  [
    'a copy completes twice',
    (lines) => [...lines, JSON.stringify({ event: 7, type: 'copy-completed', copy: 0 })],
    'line 8: copy 0 completes twice',
  ],
  [
    'a line in the middle is cut',
    (lines) => lines.with(2, lines[2]?.slice(0, 20) ?? ''),
    'line 3: this is not JSON',
  ],
  ['a line is lost', (lines) => lines.toSpliced(3, 1), 'line 4: event 4 follows event 2'],
  [
    'two lines change places',
    (lines) => [...lines.slice(0, 2), ...lines.slice(2, 4).reverse()],
    'line 3: event 3',
  ],
  [
    'a write is acknowledged twice',
    replace(5, '"write":0', '"write":1'),
    'line 6: write 1 is acknowledged twice',
  ],
  [
    'an unknown write is acknowledged',
    replace(3, '"write":1', '"write":9'),
    'line 4: write 9 is acknowledged but',
  ],
  [
    'a write has the wrong number',
    replace(2, '"write":1', '"write":7'),
    'line 3: write 7 stands where write 1',
  ],
  ['a copy has the wrong number', replace(4, '"copy":0', '"copy":1'), 'line 5: copy 1 stands where copy 0'],
  ['an unknown copy completes', replace(6, '"copy":0', '"copy":1'), 'line 7: copy 1 completes but'],
  [
    'a write goes past its area',
    replace(1, '"sectors":2', '"sectors":8'),
    'line 2: a: a write of 8 sectors at sector 1',
  ],
  ['a write goes before its area', replace(2, '"sector":9', '"sector":0'), 'line 3: ünï'],
  ['a write has no sectors', replace(1, '"sectors":2', '"sectors":0'), 'line 2: a: a write of 0 sectors'],
  ['a write goes to no device', replace(1, '"device":0', '"device":2'), 'line 2: a write goes to device 2'],
  ['a number is a fraction', replace(1, '"sector":1', '"sector":1.5'), 'line 2'],
  ['a number is negative', replace(1, '"writer":3', '"writer":-3'), 'line 2'],
  ['an event has an unknown type', replace(3, '"ack"', '"nack"'), 'line 4'],
  ['a field is missing', replace(1, '"sectors":2', '"event":1'), 'line 2'],
  ['a field is unknown', replace(3, '"write":1', '"write":1,"x":1'), 'line 4'],
  ['an empty line stands between', (lines) => lines.toSpliced(2, 0, ''), 'line 3: this is not JSON'],
  ['the format is another', replace(0, 'cofferdam-history', 'other'), 'line 1'],
  ['the version is newer', replace(0, '"version":1', '"version":2'), 'line 1'],
  ['two devices have one ID', replace(0, '"id":"a"', '"id":"ünï \\"b\\"\\n"'), 'line 1: ünï'],
  ['the devices are out of order', replace(0, '"index":0', '"index":1'), 'line 1: device a has index 1'],
  [
    'an area is not whole sectors',
    replace(0, '"areaLengthBytes":4096', '"areaLengthBytes":4000'),
    'line 1: a: ',
  ],
  ['there are no devices', (lines) => lines.with(0, lines[0]?.replace(/\[.*\]/, '[]') ?? ''), 'line 1: '],
  ['the header is missing', (lines) => lines.slice(1), 'line 1'],
  ['nothing is left', () => [], 'the file is empty'],
];

function replace(line: number, from: string, to: string): (lines: string[]) => string[] {
  return (lines) => {
    const text = lines[line] ?? '';
    if (!text.includes(from)) throw new Error(`line ${line} has no ${from}: ${text}`);
    return lines.with(line, text.replace(from, to));
  };
}

test.each(damages)('a damaged file is refused: %s', async (_, damage, message) => {
  await using directory = temporaryDirectory();
  const path = directory.file('history.jsonl');
  const lines = damage(await someLines(path));
  await writeFile(path, lines.map((line) => `${line}\n`).join(''));
  const error: unknown = await readHistory(path).catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: 'BAD_HISTORY', device: path });
  expect(String(error)).toContain(`${path}: ${message}`);
});

test('a file without lines is refused, as is one that does not exist', async () => {
  await using directory = temporaryDirectory();
  const path = directory.file('disk.img');
  await writeFile(path, Buffer.alloc(5 * 1024 * 1024, 7));
  await expect(readHistory(path)).rejects.toMatchObject({ code: 'BAD_HISTORY' });
  await expect(readHistory(directory.file('nothing'))).rejects.toMatchObject({ code: 'BAD_HISTORY' });
});

needs('/dev/zero')('something without an end is refused before it fills the memory', async () => {
  await expect(readHistory('/dev/zero')).rejects.toMatchObject({ code: 'BAD_HISTORY' });
});

needs('/dev/full')('a full disk is reported by the event that does not fit', () => {
  expect(() => new HistoryFile('/dev/full', header)).toThrow(
    expect.objectContaining({ code: 'DEVICE_FULL' }),
  );
});

test('a history refuses areas that cannot be', () => {
  const area = { id: 'a', areaOffsetBytes: 0, areaLengthBytes: 512 };
  const make = (...areas: (typeof area)[]): History => new History({ run: 0, seed: 0, areas });
  const code = (expected: string): unknown => expect.objectContaining({ code: expected });
  expect(() => make()).toThrow(code('BAD_ARGUMENT'));
  expect(() => make(area, area)).toThrow(code('DUPLICATE_DEVICE'));
  expect(() => make({ ...area, areaOffsetBytes: 100 })).toThrow(code('BAD_ARGUMENT'));
  expect(() => make({ ...area, areaLengthBytes: 0 })).toThrow(code('BAD_ARGUMENT'));
  expect(() => make({ ...area, areaOffsetBytes: Number.MAX_SAFE_INTEGER - 511 })).toThrow(
    code('BAD_ARGUMENT'),
  );
});
