import type { BlockDevice } from '../devices/block-device.js';
import { CofferdamError, invariant } from '../runtime/errors.js';
import { SECTOR_BYTES } from '../runtime/sizes.js';
import { firstSectorOf, sectorCountOf } from './area.js';
import { INITIAL, readContents, type Contents, type Defect } from './contents.js';
import type { History, Window, Write } from './history.js';
import type { Counts, Evidence, Reason, Verdict } from './verdict.js';

/**
 * Judges whether one power loss of all the given devices, at one instant within the window, could have left these
 * contents. Exact: docs/CONSISTENCY.md has the definition and the proof. Takes time in proportion to the number of
 * sector-writes.
 *
 * The order of the writes of a sector is taken to be the order in which they were sent. That is so if no two of them
 * were ever outstanding together, where a write of unknown outcome is outstanding for ever.
 *
 * @param contents of the devices to judge together. Writes to other devices are left out of account.
 * @throws CofferdamError BAD_ARGUMENT if the window ends before it begins.
 */
export function judge(history: History, contents: readonly Contents[], window: Window): Verdict {
  if (!(window.from <= window.to)) {
    throw new CofferdamError(
      'BAD_ARGUMENT',
      `no instant lies between event ${window.from} and event ${window.to}`,
    );
  }
  const { counts, lastIncluded, firstExcluded } = weigh(history, contents);
  const maxInvoke = lastIncluded?.write.invoke ?? -Infinity;
  const minAck = firstExcluded?.write.ack ?? Infinity;
  const defect = contents.find(({ firstDefect }) => firstDefect)?.firstDefect;
  const reason = reasonAgainst(defect, maxInvoke, minAck, window);
  const devices = contents.map(({ device }) => deviceId(history, device));
  if (!reason) {
    const interval = { from: Math.max(window.from, maxInvoke), to: Math.min(window.to, minAck) };
    return { consistent: true, interval, devices, window, counts };
  }
  const witness = {
    included: lastIncluded && !defect ? evidence(history, lastIncluded) : undefined,
    excluded: firstExcluded && !defect ? evidence(history, firstExcluded) : undefined,
    defect,
    defectCount: contents.reduce((sum, { defectCount }) => sum + defectCount, 0),
  };
  return { consistent: false, reason, witness, devices, window, counts };
}

export interface CopyVerdict {
  /** All devices together. */
  group: Verdict;
  /** Each device by itself, by ID. Devices that are consistent one by one need not be so together. */
  devices: Map<string, Verdict>;
}

/**
 * Reads and judges a copy of all the devices of a history.
 *
 * @param images the copy of each device, by ID.
 * @throws CofferdamError UNKNOWN_DEVICE if the image of a device is missing, and what {@link readContents} and
 * {@link judge} throw.
 */
export async function judgeCopy(
  history: History,
  images: ReadonlyMap<string, BlockDevice>,
  window: Window,
  signal?: AbortSignal,
): Promise<CopyVerdict> {
  const contents: Contents[] = [];
  for (const [device, { id }] of history.header.areas.entries()) {
    const image = images.get(id);
    if (!image) {
      throw new CofferdamError('UNKNOWN_DEVICE', `${id}: there is no image of this device; name one`, {
        device: id,
      });
    }
    contents.push(await readContents(history, device, image, signal));
  }
  const alone = contents.map((content) => judge(history, [content], window));
  return {
    group: judge(history, contents, window),
    devices: new Map(alone.map((verdict, device) => [deviceId(history, device), verdict])),
  };
}

interface SectorWrite {
  write: Write;
  /** Index of the sector within the area. */
  index: number;
  /** What the copy holds there. */
  held: number;
}

/** The included sector-write sent last and the excluded one acknowledged first, of all of them. */
interface Extremes {
  counts: Counts;
  lastIncluded: SectorWrite | undefined;
  firstExcluded: SectorWrite | undefined;
}

function weigh(history: History, contents: readonly Contents[]): Extremes {
  const areas = history.header.areas.map((area, device) => ({
    firstSector: firstSectorOf(area),
    holds: contents.find((content) => content.device === device)?.holds,
  }));
  const counts = { sectors: 0, included: 0, excluded: 0 };
  let lastIncluded: SectorWrite | undefined;
  let firstExcluded: SectorWrite | undefined;
  let found = 0;
  for (const write of history.writes) {
    const area = areas[write.device];
    if (!area?.holds) continue;
    const start = write.firstSector - area.firstSector;
    for (let index = start; index < start + write.sectorCount; index++) {
      const held = area.holds[index] ?? INITIAL;
      if (write.sequence === held) found++;
      // Every sector-write counts. The first one excluded from a sector may have failed: it is never acknowledged,
      // and would hide a later one that was.
      if (write.sequence <= held) {
        counts.included++;
        if (!lastIncluded || write.invoke > lastIncluded.write.invoke) lastIncluded = { write, index, held };
      } else {
        counts.excluded++;
        if (write.ack < (firstExcluded?.write.ack ?? Infinity)) firstExcluded = { write, index, held };
      }
    }
  }
  let written = 0;
  for (const { device, holds } of contents) {
    const area = history.header.areas[device];
    invariant(
      area !== undefined && holds.length === sectorCountOf(area),
      'the contents are not those of an area',
    );
    counts.sectors += holds.length;
    for (const held of holds) if (held !== INITIAL) written++;
  }
  invariant(found === written, 'a sector holds a write that does not cover it');
  return { counts, lastIncluded, firstExcluded };
}

/** The simplest proof comes first: one sector, then one write, then two. */
function reasonAgainst(
  defect: Defect | undefined,
  maxInvoke: number,
  minAck: number,
  window: Window,
): Reason | undefined {
  if (defect) return defect.kind;
  if (minAck < window.from) return 'lost-write';
  if (maxInvoke > window.to) return 'future-write';
  if (maxInvoke > minAck) return 'precedence';
  return undefined;
}

function evidence(history: History, { write, index, held }: SectorWrite): Evidence {
  const areaOffsetBytes = history.header.areas[write.device]?.areaOffsetBytes ?? NaN;
  return {
    sequence: write.sequence,
    writer: write.writer,
    device: deviceId(history, write.device),
    offsetBytes: write.firstSector * SECTOR_BYTES,
    lengthBytes: write.sectorCount * SECTOR_BYTES,
    invoke: write.invoke,
    ack: write.ack,
    sectorOffsetBytes: areaOffsetBytes + index * SECTOR_BYTES,
    holds: held === INITIAL ? 'initial' : held,
  };
}

function deviceId(history: History, device: number): string {
  const id = history.header.areas[device]?.id;
  invariant(id !== undefined, `there is no device ${device}`);
  return id;
}
