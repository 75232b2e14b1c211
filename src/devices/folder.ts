import { statSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { CofferdamError, errnoOf, messageOf } from '../runtime/errors.js';

/**
 * What is wrong with the folder of a path in which something could not be found or made, if that is the reason: the
 * operating system does not say so.
 */
export function folderFault(path: string): CofferdamError | undefined {
  const folder = dirname(path);
  if (isFolder(folder)) return undefined;
  return new CofferdamError(
    'DEVICE_NOT_FOUND',
    `${path}: there is no folder ${folder}; make it, or give another path`,
    { device: path },
  );
}

/**
 * Makes a folder, and those that it is in, unless it is there.
 *
 * @throws CofferdamError TARGET_EXISTS if something else is there; TARGET_WRITE_FAILED
 */
export async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true });
  } catch (cause) {
    const details = { device: path, cause };
    if (['EEXIST', 'ENOTDIR'].includes(errnoOf(cause) ?? '')) {
      throw new CofferdamError(
        'TARGET_EXISTS',
        `${path}: there is a file where a folder is needed; give another path`,
        details,
      );
    }
    throw new CofferdamError(
      'TARGET_WRITE_FAILED',
      `${path}: the folder cannot be made: ${messageOf(cause)}`,
      details,
    );
  }
}

function isFolder(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
  }
}
