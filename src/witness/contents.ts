import type { BlockDevice } from '../devices/block-device.js';
import { CofferdamError, invariant } from '../runtime/errors.js';
import { MiB, SECTOR_BYTES } from '../runtime/sizes.js';
import { firstSectorOf, sectorCountOf, type Area } from './area.js';
import type { History } from './history.js';
import { readStamp } from './stamp.js';

/** In {@link Contents}: the sector holds what it held before the first write. */
export const INITIAL = -1;

/** What the copy of one device's area holds. */
export interface Contents {
  /** Index of the device. */
  device: number;
  /** Per sector of the area the sequence number of the write that it holds, or {@link INITIAL}. */
  holds: Int32Array;
  /** How many sectors hold neither. Their entries in `holds` mean nothing. */
  defectCount: number;
  /** The first of those sectors. */
  firstDefect: Defect | undefined;
}

/** Why no write and no initial content explains a sector. */
export type DefectKind =
  /** Neither zeros nor an intact stamp. */
  | 'garbage-sector'
  /** An intact stamp of another run. */
  | 'foreign-stamp'
  /** An intact stamp of this run that belongs to another sector or device. */
  | 'misplaced-stamp'
  /** An intact stamp for this sector, of a write that the history does not have there. */
  | 'unknown-write';

/** A sector that nothing explains. */
export interface Defect {
  kind: DefectKind;
  /** ID of the device. */
  device: string;
  /** First byte of the sector. */
  offsetBytes: number;
  /** What is there instead, for people. */
  found: string;
}

const RUN_SECTORS = MiB / SECTOR_BYTES;
const zeros = new Uint8Array(RUN_SECTORS * SECTOR_BYTES);

/**
 * Reads what the copy of a device holds. Only the area is read, in large runs.
 *
 * @param device index of the device.
 * @param image the copy of the whole device.
 * @throws CofferdamError BAD_ARGUMENT if the image ends before the area does, and what reading the image throws.
 */
export async function readContents(
  history: History,
  device: number,
  image: BlockDevice,
  signal?: AbortSignal,
): Promise<Contents> {
  const area = history.header.areas[device];
  invariant(area !== undefined, `there is no device ${device}`);
  checkImage(area, image);
  const sectorCount = sectorCountOf(area);
  const contents: Contents = {
    device,
    holds: new Int32Array(sectorCount).fill(INITIAL),
    defectCount: 0,
    firstDefect: undefined,
  };
  const buffer = new Uint8Array(Math.min(RUN_SECTORS, sectorCount) * SECTOR_BYTES);
  for (let start = 0; start < sectorCount; start += RUN_SECTORS) {
    signal?.throwIfAborted();
    const run = buffer.subarray(0, Math.min(RUN_SECTORS, sectorCount - start) * SECTOR_BYTES);
    await image.read(area.areaOffsetBytes + start * SECTOR_BYTES, run);
    // Most of a large area was never written.
    if (Buffer.compare(run, zeros.subarray(0, run.length)) === 0) continue;
    for (let index = 0; index * SECTOR_BYTES < run.length; index++) {
      const bytes = run.subarray(index * SECTOR_BYTES, (index + 1) * SECTOR_BYTES);
      const found = explain(history, device, firstSectorOf(area) + start + index, bytes);
      if (typeof found === 'number') {
        contents.holds[start + index] = found;
      } else {
        contents.defectCount++;
        contents.firstDefect ??= found;
      }
    }
  }
  return contents;
}

function checkImage(area: Area, image: BlockDevice): void {
  const endBytes = area.areaOffsetBytes + area.areaLengthBytes;
  if (image.sizeBytes >= endBytes) return;
  throw new CofferdamError(
    'BAD_ARGUMENT',
    `${image.name}: this cannot be a copy of device ${area.id}: it ends at byte ${image.sizeBytes}, the witness area at ${endBytes}`,
    { device: image.name },
  );
}

function explain(history: History, device: number, sector: number, bytes: Uint8Array): number | Defect {
  const defect = (kind: DefectKind, found: string): Defect => ({
    kind,
    device: history.header.areas[device]?.id ?? '',
    offsetBytes: sector * SECTOR_BYTES,
    found,
  });
  const stamp = readStamp(bytes);
  if (stamp === 'zero') return INITIAL;
  if (stamp === 'garbage')
    return defect('garbage-sector', 'bytes that are neither zeros nor an intact stamp');
  if (stamp.run !== history.header.run) return defect('foreign-stamp', `a stamp of run ${stamp.run}`);
  if (stamp.device !== device || stamp.sector !== sector) {
    const home = history.header.areas[stamp.device]?.id ?? `number ${stamp.device}`;
    return defect(
      'misplaced-stamp',
      `the stamp of write ${stamp.sequence} for byte ${stamp.sector * SECTOR_BYTES} of device ${home}`,
    );
  }
  const write = history.writes[stamp.sequence];
  const isKnown =
    write?.writer === stamp.writer &&
    write.device === device &&
    sector >= write.firstSector &&
    sector < write.firstSector + write.sectorCount;
  return isKnown
    ? stamp.sequence
    : defect('unknown-write', `the stamp of write ${stamp.sequence} of writer ${stamp.writer}`);
}
