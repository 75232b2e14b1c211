import { expect, test } from 'vitest';
import { MemoryDevice } from '#src/devices/memory';
import { INITIAL, readContents, type DefectKind } from '#src/witness/contents';
import { History } from '#src/witness/history';
import { judgeCopy } from '#src/witness/judge';
import { stampedSectors } from '#src/witness/stamp';
import { describeVerdict } from '#src/witness/verdict';

const RUN = 77;
const MiB = 1024 * 1024;
/** Not a multiple of the runs in which images are read, and not at the start of the device. */
const area = { areaOffsetBytes: 4608, areaLengthBytes: 2 * MiB + 1536 };
const firstSector = area.areaOffsetBytes / 512;
const sectorCount = area.areaLengthBytes / 512;

function historyOf(...ids: string[]): History {
  return new History({ run: RUN, seed: 0, areas: ids.map((id) => ({ id, ...area })) });
}

function blankImage(): MemoryDevice {
  return new MemoryDevice(3 * MiB);
}

/** Puts the stamps of a recorded write where it went. */
async function apply(history: History, sequence: number, image: MemoryDevice): Promise<void> {
  const write = history.writes[sequence];
  if (!write) throw new Error(`no write ${sequence}`);
  const stamp = { run: RUN, sector: write.firstSector, device: write.device, writer: write.writer, sequence };
  await image.write(write.firstSector * 512, stampedSectors(stamp, write.sectorCount));
}

test.each([[[0, 2047, 2048, 2049, sectorCount - 1]], [[2048]], [[sectorCount - 1]]])(
  'an image is read sector by sector, over all of the area: writes at %j',
  async (places) => {
    const history = historyOf('a');
    const image = blankImage();
    for (const place of places) {
      const sequence = history.invoke(1, 0, firstSector + place, 1);
      await apply(history, sequence, image);
    }
    const { holds, defectCount } = await readContents(history, 0, image);
    expect(holds.length).toBe(sectorCount);
    expect(places.map((place) => holds[place])).toEqual(places.map((_, sequence) => sequence));
    expect(holds.filter((held) => held === INITIAL).length).toBe(sectorCount - places.length);
    expect(defectCount).toBe(0);
  },
);

test('what is outside the area is not judged', async () => {
  const history = historyOf('a');
  const image = blankImage();
  const garbage = new Uint8Array(512).fill(7);
  await image.write(area.areaOffsetBytes - 512, garbage);
  await image.write(area.areaOffsetBytes + area.areaLengthBytes, garbage);
  const { holds, defectCount } = await readContents(history, 0, image);
  expect(defectCount).toBe(0);
  expect(holds.every((held) => held === INITIAL)).toBe(true);
});

const stamp = { run: RUN, sector: firstSector + 5, device: 0, writer: 3, sequence: 0 };
const defects: [string, DefectKind, Uint8Array][] = [
  ['bytes that are no stamp', 'garbage-sector', new Uint8Array(512).fill(1)],
  ['half a stamp', 'garbage-sector', stampedSectors(stamp, 1).fill(0, 256)],
  ['a stamp of another run', 'foreign-stamp', stampedSectors({ ...stamp, run: RUN + 1 }, 1)],
  [
    'a stamp for the next sector',
    'misplaced-stamp',
    stampedSectors({ ...stamp, sector: stamp.sector + 1 }, 1),
  ],
  ['a stamp for the other device', 'misplaced-stamp', stampedSectors({ ...stamp, device: 1 }, 1)],
  ['a stamp for no device', 'misplaced-stamp', stampedSectors({ ...stamp, device: 9 }, 1)],
  ['a write that the history ends before', 'unknown-write', stampedSectors({ ...stamp, sequence: 5 }, 1)],
  [
    'a write that went to the sector before it',
    'unknown-write',
    stampedSectors({ ...stamp, sequence: 1 }, 1),
  ],
  ['a write that went to the sector after it', 'unknown-write', stampedSectors({ ...stamp, sequence: 2 }, 1)],
  ['a write that went to the other device', 'unknown-write', stampedSectors({ ...stamp, sequence: 3 }, 1)],
  ['a write of another writer', 'unknown-write', stampedSectors({ ...stamp, writer: 4 }, 1)],
];

test.each(defects)('%s makes a copy inconsistent: %s', async (_, kind, bytes) => {
  const history = historyOf('a', 'b');
  for (const [device, sector] of [
    [0, stamp.sector],
    [0, stamp.sector - 1],
    [0, stamp.sector + 1],
    [1, stamp.sector],
  ] as const) {
    history.invoke(3, device, sector, 1);
  }
  history.completeCopy(history.requestCopy());
  const [a, b] = [blankImage(), blankImage()];
  const images = new Map([
    ['a', a],
    ['b', b],
  ]);
  await apply(history, 1, a);
  expect((await judgeCopy(history, images, history.windowOf(0))).group.consistent).toBe(true);

  await a.write(stamp.sector * 512, bytes);
  const { group, devices } = await judgeCopy(history, images, history.windowOf(0));
  expect(group).toMatchObject({
    consistent: false,
    reason: kind,
    witness: {
      defect: { device: 'a', offsetBytes: stamp.sector * 512 },
      defectCount: 1,
      included: undefined,
    },
  });
  expect(devices.get('a')).toMatchObject({ consistent: false, reason: kind });
  expect(devices.get('b')).toMatchObject({ consistent: true });
  expect(describeVerdict(group)).toContain(`byte ${stamp.sector * 512} of device a holds`);
});

test('defects are counted on all devices and the first is shown', async () => {
  const history = historyOf('a', 'b');
  const images = new Map([
    ['a', blankImage()],
    ['b', blankImage()],
  ]);
  await images.get('b')?.write(area.areaOffsetBytes + 512, new Uint8Array(1024).fill(1));
  const { group } = await judgeCopy(history, images, { from: 0, to: 1 });
  expect(group).toMatchObject({
    witness: { defect: { device: 'b', offsetBytes: area.areaOffsetBytes + 512 }, defectCount: 2 },
  });
});

test('a device without an image is refused, not left out', async () => {
  const history = historyOf('a', 'b');
  await expect(judgeCopy(history, new Map([['a', blankImage()]]), { from: 0, to: 1 })).rejects.toMatchObject({
    code: 'UNKNOWN_DEVICE',
    device: 'b',
  });
});

test('an image that ends before the area is refused', async () => {
  const image = new MemoryDevice(area.areaOffsetBytes + area.areaLengthBytes - 512, { name: 'short.img' });
  await expect(readContents(historyOf('a'), 0, image)).rejects.toMatchObject({
    code: 'BAD_ARGUMENT',
    device: 'short.img',
  });
});

test('reading stops when it is cancelled', async () => {
  const reading = readContents(historyOf('a'), 0, blankImage(), AbortSignal.abort(new Error('enough')));
  await expect(reading).rejects.toThrow('enough');
});
