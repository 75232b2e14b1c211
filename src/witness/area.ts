import { CofferdamError } from '../runtime/errors.js';
import { checkedBytes, SECTOR_BYTES } from '../runtime/sizes.js';

/** The part of a device that belongs to the witness. The rest of the device is neither written nor judged. */
export interface Area {
  /** ID of the device. */
  id: string;
  /** First byte of the area; a multiple of 512. */
  areaOffsetBytes: number;
  /** Length of the area in bytes; a multiple of 512, at least 512. */
  areaLengthBytes: number;
}

/** @throws CofferdamError BAD_ARGUMENT, DUPLICATE_DEVICE */
export function checkAreas(areas: readonly Area[]): void {
  if (areas.length === 0) throw new CofferdamError('BAD_ARGUMENT', 'the witness needs at least one device');
  const ids = new Set<string>();
  for (const { id, areaOffsetBytes, areaLengthBytes } of areas) {
    if (ids.has(id)) {
      throw new CofferdamError(
        'DUPLICATE_DEVICE',
        `${id}: two devices of the witness have this ID; rename one`,
        {
          device: id,
        },
      );
    }
    ids.add(id);
    checkedBytes(areaOffsetBytes, `${id}: offset of the witness area`);
    checkedBytes(areaLengthBytes, `${id}: length of the witness area`);
    checkedBytes(areaOffsetBytes + areaLengthBytes, `${id}: end of the witness area`);
    if (
      areaOffsetBytes % SECTOR_BYTES !== 0 ||
      areaLengthBytes % SECTOR_BYTES !== 0 ||
      areaLengthBytes === 0
    ) {
      throw new CofferdamError(
        'BAD_ARGUMENT',
        `${id}: the witness area of ${areaLengthBytes} bytes at ${areaOffsetBytes} is not one or more whole sectors of ${SECTOR_BYTES} bytes`,
        { device: id, offsetBytes: areaOffsetBytes, lengthBytes: areaLengthBytes },
      );
    }
  }
}

/** Number of the area's first sector, counted from the start of the device. */
export function firstSectorOf(area: Area): number {
  return area.areaOffsetBytes / SECTOR_BYTES;
}

export function sectorCountOf(area: Area): number {
  return area.areaLengthBytes / SECTOR_BYTES;
}
