import { randomBytes } from 'node:crypto';
import { link, lstat, open, rename, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { CofferdamError, errnoOf } from '../runtime/errors.js';

/** A name beside `path` for a file that is made in full before it gets that name. */
export function asideOf(path: string): string {
  return join(dirname(path), `.${basename(path)}.${randomBytes(6).toString('hex')}.partial`);
}

/**
 * Gives a finished file its name, durably, without overwriting anything that has the name. The file itself must have been
 * synced. A crash leaves either name or both, never a file in part under the final name.
 *
 * @throws CofferdamError TARGET_EXISTS
 */
export async function publish(aside: string, path: string): Promise<void> {
  try {
    await link(aside, path);
    await unlink(aside);
  } catch (error) {
    const errno = errnoOf(error) ?? '';
    if (errno === 'EEXIST') throw exists(path);
    // File systems without hard links; there remains an instant in which somebody else's new file would be replaced.
    if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS'].includes(errno)) throw error;
    if (await isThere(path)) throw exists(path);
    await rename(aside, path);
  }
  await syncDirectory(dirname(path));
}

/** As {@link publish}, in place of whatever has the name. */
export async function publishOver(aside: string, path: string): Promise<void> {
  await rename(aside, path);
  await syncDirectory(dirname(path));
}

async function syncDirectory(path: string): Promise<void> {
  await using directory = await open(path, 'r');
  await directory.sync();
}

async function isThere(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
}

function exists(path: string): CofferdamError {
  return new CofferdamError('TARGET_EXISTS', `${path} exists already`, { device: path });
}
