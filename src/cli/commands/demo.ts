import type { Command } from 'commander';
import { freshSeed } from '../../runtime/random.js';
import { namedPath, paths, wholeNumber, type NamedPath } from '../arguments.js';
import { addCommand, type CommandContext } from '../command.js';
import { Demo } from '../demo/demo.js';
import { DemoFolder } from '../demo/folder.js';
import { demoDocument, demoTable } from '../demo/report.js';

interface Flags {
  seed?: number;
  keep?: boolean;
}

export function addDemo(program: Command, context: CommandContext): void {
  addCommand(program, 'demo', {
    summary: 'show all of it, in under a minute',
    description: 'Show on real disk images what a crash-consistent copy is and how one goes wrong.',
    example: 'cofferdam demo\ncofferdam demo a.img b.img',
    remark: 'Your own images are only read: the demo works on copies in a folder of its own.',
  })
    .argument('[image...]', 'your own disk images or block devices, as [ID=]path', paths('image', namedPath))
    .option(
      '--seed <n>',
      'decides what the clients write (default: a fresh one, printed)',
      wholeNumber('--seed', 0),
    )
    .option('--keep', 'keep the folder with the disks, the backups and the restored copies')
    .action((images: readonly NamedPath[] | undefined, flags: Flags) => run(images ?? [], flags, context));
}

async function run(images: readonly NamedPath[], flags: Flags, context: CommandContext): Promise<void> {
  const { output } = context;
  await using folder = await DemoFolder.create(images, flags.keep ?? false);
  const report = await new Demo({ images, seed: flags.seed ?? freshSeed() }, folder, context).run();
  output.result(demoDocument(report), `\n${demoTable(report)}`);
  if (folder.isKept) output.note(`kept: ${folder.path}`);
}
