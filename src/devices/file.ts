import { constants, type BigIntStats } from 'node:fs';
import { open, stat, unlink, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Core } from '../core/core.js';
import { loadCore } from '../core/load.js';
import { CofferdamError } from '../runtime/errors.js';
import { checkedBytes } from '../runtime/sizes.js';
import { DescriptorDevice } from './descriptor.js';
import { claim, identityOfStats, type Access } from './openers.js';
import { openError, requestError } from './os-error.js';

export interface FileDeviceOptions {
  /** Refuse writes, and share the file with others that only read it. Default false. */
  readOnly?: boolean | undefined;
  /** Make the file, all zeros and without taking space, of this size in bytes. It must not exist. */
  create?: { sizeBytes: number } | undefined;
  /** The core to use. Default: the best there is. */
  core?: Core | undefined;
}

/**
 * A regular file. Its size when it is opened, any number of bytes, is the size of the device. While it is open it is
 * locked against other openers that take locks: against all of them, or, read-only, against those that write.
 */
export class FileDevice extends DescriptorDevice {
  /**
   * @throws CofferdamError DEVICE_NOT_FOUND, DEVICE_BUSY, DEVICE_IO; DEVICE_UNSUPPORTED if it is not a regular file;
   * with `create` also TARGET_EXISTS, DEVICE_FULL and BAD_ARGUMENT.
   */
  static async open(path: string, options: FileDeviceOptions = {}): Promise<FileDevice> {
    const { readOnly = false, create, core = await loadCore() } = options;
    const handle = create ? await openNew(path, readOnly) : await openExisting(path, readOnly);
    let claimed: Disposable | undefined;
    try {
      claimed = await lock(path, handle, core, readOnly ? 'shared' : 'exclusive');
      if (create) await giveSize(path, handle, create.sizeBytes);
      const { size } = await handle.stat();
      return new FileDevice({
        name: path,
        handle,
        core,
        sizeBytes: checkedBytes(size, `size of ${path}`),
        capabilities: {
          readOnly,
          fua: false, // fdatasync(2) is for the whole file.
          trim: core.name === 'native', // By punching holes, where the file system can.
          fastZero: core.name === 'native', // As for trim.
          multiConnection: true, // fdatasync(2) is for the file, whoever wrote to it.
          preferredBlockBytes: 4096, // The page cache reads whole pages.
        },
        stepBytes: 1, // File systems make holes of whole blocks and write zeros around them.
        claim: claimed,
      });
    } catch (error) {
      claimed?.[Symbol.dispose]();
      await handle.close();
      throw requestError(path, 'opening', error);
    }
  }
}

async function openExisting(path: string, readOnly: boolean): Promise<FileHandle> {
  try {
    assertRegular(path, await stat(path, { bigint: true }));
    return await open(path, readOnly ? constants.O_RDONLY : constants.O_RDWR);
  } catch (error) {
    throw openError(path, error);
  }
}

async function openNew(path: string, readOnly: boolean): Promise<FileHandle> {
  if (readOnly) {
    throw new CofferdamError('BAD_ARGUMENT', `${path}: create makes a file to write to; leave out readOnly`, {
      device: path,
    });
  }
  try {
    return await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL);
  } catch (error) {
    throw openError(path, error);
  }
}

/** What is not a regular file is not even opened: opening a tape or a pipe has effects. */
function assertRegular(path: string, stats: BigIntStats): void {
  if (stats.isFile()) return;
  throw new CofferdamError('DEVICE_UNSUPPORTED', `${path}: not a regular file`, { device: path });
}

async function lock(path: string, handle: FileHandle, core: Core, access: Access): Promise<Disposable> {
  const stats = await handle.stat({ bigint: true });
  assertRegular(path, stats);
  const claimed = claim(identityOfStats(stats), access);
  if (!claimed) throw busy(path, access, 'in this process');
  try {
    // The lock goes away with the handle.
    if (core.lock(handle.fd, access) === 'busy') throw busy(path, access, 'by another process');
  } catch (error) {
    claimed[Symbol.dispose]();
    throw error;
  }
  return claimed;
}

function busy(path: string, access: Access, by: string): CofferdamError {
  const advice =
    access === 'exclusive' ? 'close it there, or open both read-only' : 'wait until the writer has closed it';
  return new CofferdamError('DEVICE_BUSY', `${path}: open ${by}; ${advice}`, { device: path });
}

/** Gives a new file its size and makes it durable that the file exists; a file that cannot be so is removed. */
async function giveSize(path: string, handle: FileHandle, sizeBytes: number): Promise<void> {
  try {
    await handle.truncate(checkedBytes(sizeBytes, `size of ${path}`));
    await handle.sync();
    const directory = await open(dirname(path), constants.O_RDONLY);
    try {
      await directory.sync();
    } finally {
      await directory.close();
    }
  } catch (error) {
    await unlink(path);
    throw error;
  }
}
