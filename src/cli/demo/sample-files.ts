import { copyFile, mkdir, opendir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { forEachParallel } from '../../runtime/parallel.js';
import { KiB, MiB } from '../../runtime/sizes.js';

/** Where a machine has ordinary files that anyone may read: this package and what it depends on, documentation. */
const roots = [
  fileURLToPath(new URL('../../..', import.meta.url)),
  '/usr/share/doc',
  '/usr/share',
  '/usr/lib',
];

const unwanted = new Set(['.git', 'target']);
/** Smaller files take long to copy for what they weigh. */
const SMALLEST_FILE = 4 * KiB;
const LARGEST_FILE = 4 * MiB;
const MOST_FILES = 1000;

/** The files that were copied to one folder. */
export interface Sample {
  files: number;
  bytes: number;
}

/**
 * Fills folders with copies of real files of this machine, dealt out in turn, until each has enough of them.
 *
 * @param bytesEach about how much goes into each folder.
 */
export async function copySampleFiles(
  folders: readonly string[],
  bytesEach: number,
  signal: AbortSignal,
): Promise<Sample[]> {
  const hands = folders.map((folder) => ({ folder, files: 0, bytes: 0 }));
  const copies: { from: string; to: string }[] = [];
  for await (const { path, sizeBytes } of filesBelow(roots)) {
    signal.throwIfAborted();
    const [hand] = hands
      .filter(({ bytes, files }) => bytes < bytesEach && files < MOST_FILES)
      .sort((a, b) => a.files - b.files);
    if (!hand) break;
    hand.files++;
    hand.bytes += sizeBytes;
    copies.push({ from: path, to: join(hand.folder, path) });
  }
  await forEachParallel(copies, 16, async ({ from, to }) => {
    signal.throwIfAborted();
    await mkdir(dirname(to), { recursive: true });
    await copyFile(from, to);
  });
  return hands.map(({ files, bytes }) => ({ files, bytes }));
}

/** Regular files of a middling size, in the order of the folders. What cannot be read is left out. */
async function* filesBelow(folders: readonly string[]): AsyncGenerator<{ path: string; sizeBytes: number }> {
  for (const folder of folders) {
    const entries = await opendir(folder).catch(() => undefined);
    if (!entries) continue;
    for await (const entry of entries) {
      const path = join(folder, entry.name);
      if (entry.isDirectory() && !unwanted.has(entry.name)) yield* filesBelow([path]);
      if (!entry.isFile()) continue;
      const { size, mode } = await stat(path);
      // Only what everybody may read, so that a demo never fails over a secret.
      const isPublic = (mode & 0o004) !== 0;
      if (size >= SMALLEST_FILE && size <= LARGEST_FILE && isPublic) yield { path, sizeBytes: size };
    }
  }
}
