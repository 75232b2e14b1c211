import { CopyPool, openImage, restore as restoreImage } from 'cofferdam';
import { loadCore } from '#src/core/load';
import { temporaryDirectory } from '../../test/support/directory.js';
import { backUp, DEVICE_ID } from '../backups.js';
import { BareCopier } from '../bare-copy.js';
import { copyExplanations, raceCopies } from '../copy-race.js';
import { diskImages } from '../disk-images.js';
import { effortOfCall, effortOfCommand, program } from '../effort.js';
import type { Report, Table } from '../report.js';
import type { Suite, SuiteContext } from '../suite.js';
import { bareCopy, qemuImg, waysOfPeers, type WayToCopy } from '../ways-to-copy.js';

export const restore: Suite = {
  name: 'restore',
  summary: 'a restore from a backup beside qemu-img convert from the disk image itself',
  takesImages: true,
  run,
};

async function run(context: SuiteContext): Promise<Report> {
  await using directory = temporaryDirectory();
  await using pool = await CopyPool.start(await loadCore());
  await using copier = new BareCopier();
  const tables: Table[] = [];
  for (const [i, { title, path, sizeBytes }] of (await diskImages(directory, context)).entries()) {
    const note = (text: string): void => context.note(`${title}: ${text}`);
    const image = directory.file(`${i}.cofferdam`);
    await backUp(path, image, { pool });
    const peers = await waysOfPeers([qemuImg], path, note);
    const ways = [...ours(image, pool), ...peers, bareCopy(copier, path, sizeBytes)] as const;
    tables.push(...(await raceCopies({ title, ways, sizeBytes }, { smoke: context.smoke, note })));
  }
  return { tables, notes: copyExplanations };
}

function ours(image: string, pool: CopyPool): [WayToCopy, WayToCopy] {
  const script = `"${process.execPath}" "${program}" restore "$1" --device "${DEVICE_ID}=$2" --force`;
  return [
    {
      name: 'cofferdam restore',
      source: image,
      copy: (target) => effortOfCommand(script, [image, target]),
    },
    {
      name: 'restore()',
      source: image,
      copy: (target) => effortOfCall(() => restoreFrom(image, target, pool)),
    },
  ];
}

async function restoreFrom(path: string, target: string, pool: CopyPool): Promise<void> {
  await using image = await openImage(path);
  await restoreImage(image, { targets: new Map([[DEVICE_ID, target]]), force: true, pool });
}
