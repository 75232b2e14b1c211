import { CopyPool } from 'cofferdam';
import type { HashAlgorithm } from '#src/core/core';
import { loadCore } from '#src/core/load';
import { temporaryDirectory, type TemporaryDirectory } from '../../test/support/directory.js';
import { backUp, deviceId, windBack } from '../backups.js';
import { BareCopier } from '../bare-copy.js';
import { copyExplanations, raceCopies } from '../copy-race.js';
import { diskImages, type DiskImage } from '../disk-images.js';
import { effortOfCall, effortOfCommand, program } from '../effort.js';
import type { Report, Table } from '../report.js';
import type { Suite, SuiteContext } from '../suite.js';
import { bareCopy, copyPeers, waysOfPeers, type WayToCopy } from '../ways-to-copy.js';

export const copy: Suite = {
  name: 'copy',
  summary: 'a whole backup beside cp, qemu-img convert, nbdcopy and bare reading and writing',
  takesImages: true,
  run,
};

async function run(context: SuiteContext): Promise<Report> {
  await using directory = temporaryDirectory();
  await using pool = await CopyPool.start(await loadCore());
  await using copier = new BareCopier();
  const tables: Table[] = [];
  for (const images of await groups(directory, context)) {
    const title = images.map((image) => image.title).join(' + ');
    const note = (text: string): void => context.note(`${title}: ${text}`);
    const others = [...(await waysOfPeers(copyPeers, images, note)), bareCopy(copier, images)];
    const sizeBytes = images.reduce((sum, image) => sum + image.sizeBytes, 0);
    const contest = { title, ours: ours(images, pool), others, sizeBytes };
    tables.push(...(await raceCopies(contest, { smoke: context.smoke, note })));
  }
  return { tables, notes: copyExplanations };
}

/** What is backed up: each disk image alone, and all of them together. */
async function groups(directory: TemporaryDirectory, context: SuiteContext): Promise<DiskImage[][]> {
  const images = await diskImages(directory, context);
  const alone = images.map((image) => [image]);
  return images.length > 1 ? [...alone, images] : alone;
}

function ours(images: readonly DiskImage[], pool: CopyPool): WayToCopy[] {
  const sources = images.map(({ path }) => path);
  const devices = images.map((_, i) => `"${deviceId(i)}=$${i + 2}"`).join(' ');
  const script = `"${process.execPath}" "${program}" backup --to "$1" --device ${devices}`;
  const common = {
    sources,
    targets: [undefined],
    windBack: ([target = '']: readonly string[]) => windBack(target),
  };
  const call = (hash: HashAlgorithm): WayToCopy['copy'] => {
    return ([target = '']) => effortOfCall(() => backUp(sources, target, { pool, hash }));
  };
  return [
    {
      ...common,
      name: 'cofferdam backup',
      copy: ([target = '']) => effortOfCommand(script, [target, ...sources]),
    },
    { ...common, name: 'backup()', copy: call('xxh64') },
    { ...common, name: 'backup(), blake3', copy: call('blake3') },
  ];
}
