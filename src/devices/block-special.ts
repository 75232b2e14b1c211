import { constants } from 'node:fs';
import { open, stat, type FileHandle } from 'node:fs/promises';
import type { Core } from '../core/core.js';
import { loadCore } from '../core/load.js';
import { CofferdamError, errnoOf } from '../runtime/errors.js';
import { DescriptorDevice } from './descriptor.js';
import { mountPointsOf } from './mounts.js';
import { claim, deviceNumber, identityOfStats } from './openers.js';
import { openError, requestError } from './os-error.js';

export interface BlockSpecialDeviceOptions {
  /** Refuse writes. Default false. */
  readOnly?: boolean | undefined;
  /** The core to use. Default: the best there is. */
  core?: Core | undefined;
}

/**
 * A block special file: a disk, a partition, a loop device. It is opened exclusively (O_EXCL), also to read: the
 * kernel has one exclusive holder per device, and refuses what is mounted, swapped to or part of a RAID.
 */
export class BlockSpecialDevice extends DescriptorDevice {
  /**
   * @throws CofferdamError DEVICE_NOT_FOUND, DEVICE_BUSY, DEVICE_IO; DEVICE_UNSUPPORTED if it is not a block special
   * file, or where their size cannot be found out.
   */
  static async open(path: string, options: BlockSpecialDeviceOptions = {}): Promise<BlockSpecialDevice> {
    const { readOnly = false, core = await loadCore() } = options;
    const handle = await openExclusively(path, readOnly);
    let claimed: Disposable | undefined;
    try {
      claimed = claim(identityOfStats(await handle.stat({ bigint: true })), 'exclusive');
      if (!claimed) throw busy(path, 'it is open in this process; close it there');
      const { sizeBytes, logicalSectorBytes } = core.blockGeometry(handle.fd, path);
      return new BlockSpecialDevice({
        name: path,
        handle,
        core,
        sizeBytes,
        capabilities: {
          readOnly,
          fua: false, // fdatasync(2) is for the whole device.
          trim: core.name === 'native', // By the kernel's discard, where the device can.
          fastZero: core.name === 'native', // By the kernel's write-zeroes, where the device can.
          multiConnection: true, // All openers share the kernel's cache of the device.
          preferredBlockBytes: 4096, // The page cache reads whole pages.
        },
        stepBytes: logicalSectorBytes, // The kernel discards and zeroes whole sectors only.
        claim: claimed,
      });
    } catch (error) {
      claimed?.[Symbol.dispose]();
      await handle.close();
      throw requestError(path, 'opening', error);
    }
  }
}

async function openExclusively(path: string, readOnly: boolean): Promise<FileHandle> {
  try {
    const stats = await stat(path, { bigint: true });
    if (!stats.isBlockDevice()) {
      throw new CofferdamError('DEVICE_UNSUPPORTED', `${path}: not a block special file`, { device: path });
    }
    return await open(path, (readOnly ? constants.O_RDONLY : constants.O_RDWR) | constants.O_EXCL);
  } catch (error) {
    if (errnoOf(error) === 'EBUSY') throw busy(path, await holderOf(path), error);
    throw openError(path, error);
  }
}

async function holderOf(path: string): Promise<string> {
  const { rdev } = await stat(path, { bigint: true });
  const mounts = await mountPointsOf(deviceNumber(rdev));
  if (mounts.length > 0) return `it is mounted on ${mounts.join(', ')}; unmount it first`;
  return 'it is held by another program, a mount, swap or a RAID; release it there first';
}

function busy(path: string, why: string, cause?: unknown): CofferdamError {
  return new CofferdamError('DEVICE_BUSY', `${path}: in use: ${why}`, { device: path, cause });
}
