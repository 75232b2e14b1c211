import type { BackupImage } from '#src/backup/image/image';
import type { ImageStore } from '#src/backup/image/store';
import { BlockState } from '#src/core/core';

/** Changes one byte of an image. */
export async function damage(store: ImageStore, offset: number): Promise<void> {
  const byte = new Uint8Array(1);
  await store.read(offset, byte);
  await store.write(
    offset,
    byte.map((value) => value ^ 0x40),
  );
}

/** The blocks of a device that are stored, in order, with their offsets in the image. */
export async function storedBlocks(
  image: BackupImage,
  generation: number,
  id: string,
): Promise<{ block: number; offset: number }[]> {
  const found: { block: number; offset: number }[] = [];
  for await (const step of image.blockMap(await image.record(generation), id).walk()) {
    if (step.kind !== 'leaf') continue;
    step.blocks.states.forEach((state, i) => {
      if (state === BlockState.Stored)
        found.push({ block: step.firstBlock + i, offset: step.blocks.offsets[i] ?? 0 });
    });
  }
  return found;
}
