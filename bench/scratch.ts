import { statfs } from 'node:fs/promises';
import { temporaryDirectory, type TemporaryDirectory } from '../test/support/directory.js';

/**
 * A fresh directory for what a disk would only disturb: in memory where the machine has a place with room for
 * `neededBytes`, else on disk.
 */
export async function memoryDirectory(neededBytes: number): Promise<TemporaryDirectory> {
  const { bavail, bsize } = await statfs('/dev/shm').catch(() => ({ bavail: 0, bsize: 0 }));
  return temporaryDirectory({ inMemory: bavail * bsize >= neededBytes });
}
