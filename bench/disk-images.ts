import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openDevice } from 'cofferdam';
import { findTool, runTool } from '#src/cli/demo/tool';
import { formatBytes, GiB, MiB } from '#src/runtime/sizes';
import type { TemporaryDirectory } from '../test/support/directory.js';
import { makeImage, type Filling } from './inputs.js';
import type { SuiteContext } from './suite.js';

/** A disk image to measure with. It is only read. */
export interface DiskImage {
  title: string;
  path: string;
  sizeBytes: number;
}

/** The user's own images or, without, ones that are made: random, half zeros, a file system with files, holes. */
export async function diskImages(
  directory: TemporaryDirectory,
  { images, smoke }: SuiteContext,
): Promise<DiskImage[]> {
  if (images.length > 0) return Promise.all(images.map(describe));
  if (smoke) return [await makeDiskImage(directory, 'half zeros', MiB)];
  const made = [
    await makeDiskImage(directory, 'random', 256 * MiB),
    await makeDiskImage(directory, 'half zeros', 256 * MiB),
    await makeFileSystem(directory.file('ext4.img')),
    await makeDiskImage(directory, 'sparse', GiB),
  ];
  return made.filter((image) => image !== undefined);
}

export async function describe(path: string): Promise<DiskImage> {
  await using device = await openDevice(path, { readOnly: true });
  const { sizeBytes } = device;
  return { title: `${basename(path)}, ${formatBytes(sizeBytes)}`, path, sizeBytes };
}

export async function makeDiskImage(
  directory: TemporaryDirectory,
  filling: Filling,
  sizeBytes: number,
): Promise<DiskImage> {
  const path = directory.file(`${filling}.img`);
  await makeImage(path, sizeBytes, filling);
  return { title: `${filling}, ${formatBytes(sizeBytes)}`, path, sizeBytes };
}

const packages = fileURLToPath(new URL('../node_modules/', import.meta.url));

/** A real file system with real files: the packages that this one depends on. */
async function makeFileSystem(path: string): Promise<DiskImage | undefined> {
  const mke2fs = await findTool('mke2fs');
  if (!mke2fs) return undefined;
  const args = ['-q', '-F', '-t', 'ext4', '-d', packages, path, '512m'];
  const { succeeded, output } = await runTool(mke2fs, args, new AbortController().signal);
  if (!succeeded) throw new Error(output);
  const { sizeBytes } = await describe(path);
  return { title: `ext4 with the files of node_modules, ${formatBytes(sizeBytes)}`, path, sizeBytes };
}
