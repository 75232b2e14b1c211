import type { BigIntStats } from 'node:fs';
import { stat } from 'node:fs/promises';
import { CofferdamError, errnoOf } from '../runtime/errors.js';
import type { BlockDevice } from './block-device.js';
import { BlockSpecialDevice } from './block-special.js';
import { FileDevice, type FileDeviceOptions } from './file.js';
import { deviceNumber, identityOfStats } from './openers.js';
import { openError } from './os-error.js';
import { backingFileOf, partitionsOf } from './sysfs.js';

/**
 * Opens a regular file or a block special file, whichever it is.
 *
 * @throws CofferdamError as {@link FileDevice.open} and {@link BlockSpecialDevice.open}; DEVICE_UNSUPPORTED for anything
 * else.
 */
export async function openDevice(path: string, options: FileDeviceOptions = {}): Promise<BlockDevice> {
  const stats = await statOf(path);
  if (stats === undefined || stats.isFile()) return await FileDevice.open(path, options);
  if (stats.isBlockDevice() && !options.create) return await BlockSpecialDevice.open(path, options);
  const why = stats.isBlockDevice()
    ? 'a block device cannot be created'
    : 'neither a file nor a block device';
  throw new CofferdamError('DEVICE_UNSUPPORTED', `${path}: ${why}`, { device: path });
}

/**
 * What tells whether two paths lead to the same bytes: they do, in part at least, if their identities have one in
 * common. For a file itself; for a block device itself, its partitions, and the file behind a loop device.
 *
 * @returns none if there is nothing at this path.
 * @throws CofferdamError DEVICE_IO
 */
export async function identityOf(path: string): Promise<string[]> {
  const stats = await statOf(path);
  if (stats === undefined) return [];
  const identities = [identityOfStats(stats)];
  if (!stats.isBlockDevice()) return identities;
  const number = deviceNumber(stats.rdev);
  for (const partition of await partitionsOf(number)) identities.push(`block ${partition}`);
  const backing = await backingFileOf(number);
  if (backing !== undefined) identities.push(...(await identityOf(backing)));
  return identities;
}

/** Undefined if there is nothing at this path. */
async function statOf(path: string): Promise<BigIntStats | undefined> {
  try {
    return await stat(path, { bigint: true });
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw openError(path, error);
  }
}
