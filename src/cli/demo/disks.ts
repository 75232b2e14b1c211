import { mkdir, open, rm, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { CofferdamError } from '../../runtime/errors.js';
import { Random } from '../../runtime/random.js';
import { KiB, MiB, roundUp, SECTOR_BYTES } from '../../runtime/sizes.js';
import type { Area } from '../../witness/area.js';
import type { NamedPath } from '../arguments.js';
import { count } from '../wording.js';
import { checkFileSystem, type FileSystemState } from './file-system.js';
import { copySampleFiles } from './sample-files.js';
import { sparseCopy } from './sparse-copy.js';
import { findTool, runTool } from './tool.js';

/** A disk image of the demo. Its last part, beyond what the user would call its content, belongs to the witness. */
export interface Disk {
  id: string;
  path: string;
  /** Where the content ends and the witness' area begins. */
  contentBytes: number;
  sizeBytes: number;
  /** What is on it, for people. */
  contents: string;
  fileSystem: FileSystemState;
}

type BareDisk = Omit<Disk, 'fileSystem'>;

const CONTENT_BYTES = 248 * MiB;
const FILES_BYTES = 32 * MiB;
const AREA_BYTES = 8 * MiB;

export function witnessArea({ id, contentBytes }: Disk): Area {
  return { id, areaOffsetBytes: contentBytes, areaLengthBytes: AREA_BYTES };
}

/**
 * Disks with the contents of the user's images, which are only read; without images four disks of our own.
 *
 * @throws CofferdamError what opening and writing devices throws
 */
export async function prepareDisks(
  folder: string,
  images: readonly NamedPath[],
  seed: number,
  signal: AbortSignal,
): Promise<Disk[]> {
  const disks: BareDisk[] = [];
  for (const image of images) disks.push(await copyDisk(image, folder, signal));
  disks.push(...(await makeDisks(ownIds(images), folder, seed, signal)));
  const prepared: Disk[] = [];
  for (const disk of disks) {
    await truncate(disk.path, disk.sizeBytes);
    await flush(disk.path);
    prepared.push({ ...disk, fileSystem: await checkFileSystem(disk.path, signal) });
  }
  return prepared;
}

/** Writes back now what would otherwise slow the first flush of a client down. */
async function flush(path: string): Promise<void> {
  await using file = await open(path, 'r+');
  await file.sync();
}

/**
 * IDs of the disks to make. One barrier after the other is enough for two disks: when the first comes down the second
 * goes up at once. It takes a third for things to go wrong, so the user's disks get company.
 */
function ownIds(images: readonly NamedPath[]): string[] {
  if (images.length === 0) return ['disk0', 'disk1', 'disk2', 'disk3'];
  const taken = new Set(images.map(({ id }) => id));
  const free = ['disk1', 'disk2', 'disk3', 'disk4'].filter((id) => !taken.has(id));
  return free.slice(0, Math.max(0, 3 - images.length));
}

async function copyDisk(image: NamedPath, folder: string, signal: AbortSignal): Promise<BareDisk> {
  const path = join(folder, `${image.id}.img`);
  await sparseCopy(image.path, path, signal);
  const contentBytes = roundUp((await stat(path)).size, 4 * KiB);
  return {
    id: image.id,
    path,
    contentBytes,
    sizeBytes: contentBytes + AREA_BYTES,
    contents: `copy of ${image.path}`,
  };
}

/** File systems with real files, or a pattern where there is no mke2fs. */
async function makeDisks(
  ids: readonly string[],
  folder: string,
  seed: number,
  signal: AbortSignal,
): Promise<BareDisk[]> {
  if (ids.length === 0) return [];
  const mke2fs = await findTool('mke2fs');
  const disks = ids.map((id) => ({ id, path: join(folder, `${id}.img`) }));
  const contents = mke2fs
    ? await makeFileSystems(mke2fs, disks, join(folder, 'files'), signal)
    : await writePatterns(disks, seed, signal);
  return disks.map((disk, index) => ({
    ...disk,
    contentBytes: CONTENT_BYTES,
    sizeBytes: CONTENT_BYTES + AREA_BYTES,
    contents: contents[index] ?? '',
  }));
}

/** @returns what is on each. */
async function makeFileSystems(
  mke2fs: string,
  disks: readonly NamedPath[],
  staging: string,
  signal: AbortSignal,
): Promise<string[]> {
  const folders = disks.map(({ id }) => join(staging, id));
  for (const folder of folders) await mkdir(folder, { recursive: true });
  const samples = await copySampleFiles(folders, FILES_BYTES, signal);
  for (const { id, path } of disks) {
    const args = ['-q', '-F', '-t', 'ext4', '-m', '0', '-L', id.slice(0, 16), '-d', join(staging, id), path];
    const { succeeded, output } = await runTool(mke2fs, [...args, `${CONTENT_BYTES / KiB}k`], signal);
    if (!succeeded) throw new CofferdamError('DEVICE_IO', `${mke2fs} failed: ${output}`, { device: path });
  }
  await rm(staging, { recursive: true });
  return samples.map(({ files }) => `ext4 with ${count(files, 'file')} of this machine`);
}

/** @returns what is on each. */
async function writePatterns(
  disks: readonly NamedPath[],
  seed: number,
  signal: AbortSignal,
): Promise<string[]> {
  const random = new Random(seed);
  for (const { path } of disks) {
    await using file = await open(path, 'wx');
    for (let piece = 0; piece * MiB < FILES_BYTES; piece++) {
      signal.throwIfAborted();
      const words = Uint32Array.from({ length: MiB / 4 }, () => random.uint32());
      // Anywhere within its own two megabytes, so that there are holes between.
      const offset = (2 * piece + random.unit()) * MiB;
      await file.write(words, 0, words.byteLength, roundUp(offset, SECTOR_BYTES));
    }
  }
  return disks.map(() => 'a seeded pattern with holes, for want of mke2fs (e2fsprogs)');
}
