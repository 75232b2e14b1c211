import { execFile } from 'node:child_process';
import { statfs } from 'node:fs/promises';
import { promisify } from 'node:util';

const execute = promisify(execFile);

/** Whether a file is kept in memory alone, so that there is no reading it cold. */
export async function isInMemory(path: string): Promise<boolean> {
  const TMPFS_MAGIC = 0x0102_1994;
  return (await statfs(path)).type === TMPFS_MAGIC;
}

/** Takes a file out of the page cache, as far as it is written back. Nobody else's files are touched. */
export async function dropFromPageCache(path: string): Promise<void> {
  // With nothing to copy it advises the system to drop all of the file.
  await execute('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none']);
}
