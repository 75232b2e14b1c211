import { CopyPool, openImage, restore as restoreImage } from 'cofferdam';
import { loadCore } from '#src/core/load';
import { temporaryDirectory } from '../../test/support/directory.js';
import { backUp, deviceId } from '../backups.js';
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
  for (const [i, disk] of (await diskImages(directory, context)).entries()) {
    const { title, path, sizeBytes } = disk;
    const note = (text: string): void => context.note(`${title}: ${text}`);
    const image = directory.file(`${i}.cofferdam`);
    await backUp([path], image, { pool });
    const others = [...(await waysOfPeers([qemuImg], [disk], note)), bareCopy(copier, [disk])];
    const contest = { title, ours: ours(image, pool), others, sizeBytes };
    tables.push(...(await raceCopies(contest, { smoke: context.smoke, note })));
  }
  return { tables, notes: copyExplanations };
}

function ours(image: string, pool: CopyPool): WayToCopy[] {
  const script = `"${process.execPath}" "${program}" restore "$1" --device "${deviceId(0)}=$2" --force`;
  return [
    {
      name: 'cofferdam restore',
      sources: [image],
      targets: [undefined],
      copy: (targets) => effortOfCommand(script, [image, ...targets]),
    },
    {
      name: 'restore()',
      sources: [image],
      targets: [undefined],
      copy: (targets) => effortOfCall(() => restoreFrom(image, targets, pool)),
    },
  ];
}

async function restoreFrom(path: string, targets: readonly string[], pool: CopyPool): Promise<void> {
  await using image = await openImage(path);
  const byId = new Map(targets.map((target, i) => [deviceId(i), target]));
  await restoreImage(image, { targets: byId, force: true, pool });
}
