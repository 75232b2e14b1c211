import { open, type FileHandle } from 'node:fs/promises';
import { KiB, MiB } from '#src/runtime/sizes';
import { randomBytes } from '../test/support/bytes.js';

/** What a disk image is filled with. */
export type Filling = 'random' | 'half zeros' | 'sparse';

/** Whether the 64 KiB at this index hold data; the rest is zeros, or with `sparse` holes. */
const holdsData: Readonly<Record<Filling, (index: number) => boolean>> = {
  random: () => true,
  'half zeros': (index) => index % 2 === 0,
  // A megabyte of every ten.
  sparse: (index) => Math.floor(index / 16) % 10 === 0,
};

const PIECE_BYTES = 64 * KiB;

/** Makes a disk image, a multiple of 64 KiB long. It is in the page cache then, and written back. */
export async function makeImage(path: string, sizeBytes: number, filling: Filling): Promise<void> {
  await using file = await open(path, 'wx');
  await file.truncate(sizeBytes);
  const data = randomBytes(16 * MiB, 1);
  for (let start = 0; start < sizeBytes; start += data.length) {
    // Not the same bytes again and again, should something on the way care.
    new Uint32Array(data.buffer)[0] = start / data.length;
    const bytes = data.subarray(0, Math.min(data.length, sizeBytes - start));
    await writeFilling(file, start, bytes, filling);
  }
  await file.sync();
}

async function writeFilling(
  file: FileHandle,
  start: number,
  bytes: Uint8Array,
  filling: Filling,
): Promise<void> {
  if (filling === 'random') return void (await file.write(bytes, 0, bytes.length, start));
  const zeros = new Uint8Array(PIECE_BYTES);
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
    const isData = holdsData[filling]((start + at) / PIECE_BYTES);
    if (isData) await file.write(bytes, at, PIECE_BYTES, start + at);
    else if (filling !== 'sparse') await file.write(zeros, 0, PIECE_BYTES, start + at);
  }
}
