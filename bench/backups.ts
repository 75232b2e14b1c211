import { open, rm } from 'node:fs/promises';
import { backup, openCluster, type CopyPool } from 'cofferdam';
import { DATA_START } from '#src/backup/image/layout';
import { openImage } from '#src/backup/image/open';
import type { HashAlgorithm } from '#src/core/core';

/** What the disk images are called in the backups that are measured, by their order. */
export function deviceId(index: number): string {
  return `disk${index}`;
}

/** Copies disk images into a new generation, in this process. */
export async function backUp(
  sources: readonly string[],
  to: string,
  { pool, hash = 'xxh64' }: { pool: CopyPool; hash?: HashAlgorithm },
): Promise<void> {
  await using cluster = await openCluster({
    servers: sources.map((path, i) => ({
      id: deviceId(i),
      device: { kind: 'file', path, readOnly: true },
    })),
  });
  await backup({ servers: cluster.servers, to, pool, hash });
}

/** Lets an image forget its generations, so that the next one is put where the first was. */
export async function windBack(target: string): Promise<void> {
  const blank = `${target}.blank`;
  await (await openImage(blank, { write: true, create: true })).close();
  const head = new Uint8Array(DATA_START);
  {
    await using file = await open(blank, 'r');
    await file.read(head, 0, head.length, 0);
  }
  await rm(blank);
  await using file = await open(target, 'r+');
  await file.write(head, 0, head.length, 0);
  await file.sync();
}
