import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { CofferdamError, errnoOf } from '../runtime/errors.js';
import type { BlockGeometry, Core } from './core.js';
import { loadHashes } from './portable-hash.js';

/** The core without native code: Node's file functions and WebAssembly. The same bytes, more slowly. */
export async function loadPortable(): Promise<Core> {
  const hash = await loadHashes();
  return {
    name: 'portable',
    hash,
    isZero: (bytes) => bytes.every((byte) => byte === 0),
    copy: () => {
      throw new CofferdamError('DEVICE_UNSUPPORTED', 'the portable copy is not there yet');
    },
    restore: () => {
      throw new CofferdamError('DEVICE_UNSUPPORTED', 'the portable restore is not there yet');
    },
    // Node has no file locks.
    lock: () => 'unsupported',
    blockGeometry: (_fd, path) => geometryFromSysfs(path),
    // Node has neither fallocate(2) nor SEEK_DATA.
    zeroRange: () => Promise.resolve(false),
    discard: () => Promise.resolve(false),
    dataRanges: (_fd, offsetBytes, lengthBytes) =>
      lengthBytes === 0 ? new Float64Array() : Float64Array.of(offsetBytes, offsetBytes + lengthBytes),
  };
}

function geometryFromSysfs(path: string): BlockGeometry {
  const name = basename(path);
  const read = (file: string): number => {
    try {
      return Number(readFileSync(`/sys/class/block/${name}/${file}`, 'utf8'));
    } catch (error) {
      throw new CofferdamError(
        'DEVICE_UNSUPPORTED',
        `the size of ${path} is not known without the native core (${errnoOf(error)}); run \`npm run build:native\``,
        { device: path, cause: error },
      );
    }
  };
  // The kernel counts in units of 512 bytes here, whatever the device's sectors are.
  return { sizeBytes: read('size') * 512, logicalSectorBytes: read('queue/logical_block_size') };
}
