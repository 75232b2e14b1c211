import { existsSync, mkdtempSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface TemporaryDirectory extends AsyncDisposable {
  readonly path: string;
  /** The path of a file in this directory; it is not created. */
  file(name: string): string;
}

/**
 * A fresh directory, removed with all that is in it when the scope ends: `await using directory = temporaryDirectory()`.
 *
 * @param options.inMemory in memory where the machine has such a place: for tests in which syncing would take the time
 * and shows nothing.
 */
export function temporaryDirectory(options: { inMemory?: boolean } = {}): TemporaryDirectory {
  const parent = options.inMemory && existsSync('/dev/shm') ? '/dev/shm' : tmpdir();
  const path = mkdtempSync(join(parent, 'cofferdam-'));
  return {
    path,
    file: (name) => join(path, name),
    [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }),
  };
}
