import { fstatSync, readFileSync } from 'node:fs';
import { CofferdamError, messageOf } from '../../runtime/errors.js';
import type { BlockGeometry } from '../core.js';

/** Size and sector size of a block special file, as Linux shows them under /sys (sysfs(5)). */
export function blockGeometry(fd: number, path: string): BlockGeometry {
  try {
    const stat = fstatSync(fd);
    if (!stat.isBlockDevice()) throw new Error('it is not a block special file');
    // How the C library packs a device number, as far as the kernel uses it: 12 bits of major, 20 of minor.
    const major = (stat.rdev >>> 8) & 0xfff;
    const minor = (stat.rdev & 0xff) | ((stat.rdev >>> 12) & 0xfff00);
    const directory = `/sys/dev/block/${major}:${minor}`;
    return {
      // In units of 512 bytes, whatever the device's sectors are.
      sizeBytes: readNumber(`${directory}/size`) * 512,
      logicalSectorBytes: sectorBytes(directory),
    };
  } catch (error) {
    throw new CofferdamError(
      'DEVICE_UNSUPPORTED',
      `${path}: its size cannot be told without the native core: ${messageOf(error)}; run \`npm run build:native\``,
      { device: path, cause: error },
    );
  }
}

function sectorBytes(directory: string): number {
  try {
    return readNumber(`${directory}/queue/logical_block_size`);
  } catch {
    // A partition has the queue of the device that it is on.
    return readNumber(`${directory}/../queue/logical_block_size`);
  }
}

function readNumber(file: string): number {
  const value = Number(readFileSync(file, 'utf8'));
  if (!Number.isSafeInteger(value)) throw new Error(`${file} holds no number`);
  return value;
}
