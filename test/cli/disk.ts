import { truncate, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { MiB } from '#src/runtime/sizes';
import { randomBytes } from '../support/bytes.js';
import { run } from '../support/loop-device.js';

/** Real files: the sources of this project. */
const files = fileURLToPath(new URL('../../src', import.meta.url));

/** Makes a sparse image of 64 MiB with an ext4 file system that holds real files. Needs mke2fs. */
export async function makeFileSystem(path: string): Promise<void> {
  await run('mke2fs', '-q', '-F', '-t', 'ext4', '-d', files, path, '64M');
}

/** Makes a sparse image without any structure: some data, then a hole. */
export async function makePlainDisk(path: string, dataBytes = 3 * MiB, holeBytes = MiB): Promise<Uint8Array> {
  const data = randomBytes(dataBytes, 1);
  await writeFile(path, data);
  await truncate(path, dataBytes + holeBytes);
  return data;
}
