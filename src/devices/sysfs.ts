import { readdir, readFile, realpath } from 'node:fs/promises';
import { dirname, join } from 'node:path';

/** The partitions of a disk, as `major:minor` like the disk itself. */
export async function partitionsOf(device: string): Promise<string[]> {
  const directory = `/sys/dev/block/${device}`;
  const names = await readdir(directory).catch(() => []);
  const found: string[] = [];
  for (const name of names) {
    if ((await text(join(directory, name, 'partition'))) === undefined) continue;
    const number = await text(join(directory, name, 'dev'));
    if (number !== undefined) found.push(number);
  }
  return found;
}

/** The file behind a loop device or a partition of one. */
export async function backingFileOf(device: string): Promise<string | undefined> {
  const directory = await realpath(`/sys/dev/block/${device}`).catch(() => undefined);
  if (directory === undefined) return undefined;
  const isPartition = (await text(join(directory, 'partition'))) !== undefined;
  return await text(join(isPartition ? dirname(directory) : directory, 'loop/backing_file'));
}

async function text(path: string): Promise<string | undefined> {
  return await readFile(path, 'utf8').then(
    (content) => content.replace(/\n$/, ''),
    () => undefined,
  );
}
