import { open, rm } from 'node:fs/promises';
import { backup, openCluster, type CopyPool } from 'cofferdam';
import { DATA_START } from '#src/backup/image/layout';
import { openImage } from '#src/backup/image/open';
import type { HashAlgorithm } from '#src/core/core';

/** What a disk image is called in the backups that are measured. */
export const DEVICE_ID = 'disk';

/** Copies a disk image into a new generation, in this process. */
export async function backUp(
  source: string,
  to: string,
  { pool, hash = 'xxh64' }: { pool: CopyPool; hash?: HashAlgorithm },
): Promise<void> {
  await using cluster = await openCluster({
    servers: [{ id: DEVICE_ID, device: { kind: 'file', path: source, readOnly: true } }],
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
