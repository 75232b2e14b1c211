import { CopyPool } from 'cofferdam';
import { loadCore } from '#src/core/load';
import { temporaryDirectory } from '../../test/support/directory.js';
import { backUp, DEVICE_ID, windBack } from '../backups.js';
import { BareCopier } from '../bare-copy.js';
import { copyExplanations, raceCopies } from '../copy-race.js';
import { diskImages } from '../disk-images.js';
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
  for (const { title, path, sizeBytes } of await diskImages(directory, context)) {
    const note = (text: string): void => context.note(`${title}: ${text}`);
    const peers = await waysOfPeers(copyPeers, path, note);
    const ways = [...ours(path, pool), ...peers, bareCopy(copier, path, sizeBytes)] as const;
    tables.push(...(await raceCopies({ title, ways, sizeBytes }, { smoke: context.smoke, note })));
  }
  return { tables, notes: copyExplanations };
}

function ours(source: string, pool: CopyPool): [WayToCopy, WayToCopy] {
  const script = `"${process.execPath}" "${program}" backup --to "$2" --device "${DEVICE_ID}=$1"`;
  return [
    {
      name: 'cofferdam backup',
      source,
      copy: (target) => effortOfCommand(script, [source, target]),
      windBack,
    },
    {
      name: 'backup()',
      source,
      copy: (target) => effortOfCall(() => backUp(source, target, { pool })),
      windBack,
    },
  ];
}
