import { readlink, realpath } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { errnoOf } from '../runtime/errors.js';

/** More in a row than any operating system follows. */
const MOST_LINKS = 40;

/**
 * Where a file of this path is or would be made, past all symbolic links, so that two paths of one file become the same.
 * What cannot be found out stays as it was given: opening it will say why.
 */
export async function finalPath(path: string): Promise<string> {
  let current = resolve(path);
  for (let links = 0; links < MOST_LINKS; links++) {
    const folder = await orElse(realpath(dirname(current)), dirname(current));
    current = join(folder, basename(current));
    const next = await orElse(readlink(current), undefined);
    if (next === undefined) return current;
    current = resolve(folder, next);
  }
  return current;
}

/** @throws what does not come of the path. */
async function orElse<T, U>(found: Promise<T>, otherwise: U): Promise<T | U> {
  try {
    return await found;
  } catch (error) {
    if (errnoOf(error) === undefined) throw error;
    return otherwise;
  }
}
