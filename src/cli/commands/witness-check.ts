import { Option, type Command } from 'commander';
import { filled, idAndPath, paths, type NamedPath } from '../arguments.js';
import { addCommand, type CommandContext } from '../command.js';
import { inconsistency, judgeFiles, verdictDocument } from '../judgement.js';
import { describeVerdict } from '../../witness/verdict.js';

interface Flags {
  history: string;
  image: readonly NamedPath[];
}

export function addWitnessCheck(witness: Command, context: CommandContext): void {
  addCommand(witness, 'check', {
    summary: 'judge copies that were made by any means',
    description: 'Judge copies of block devices by what their clients wrote and saw succeed.',
    example: 'cofferdam witness check --history history.jsonl --image disk0=copy0.img disk1=copy1.img',
  })
    .requiredOption(
      '--history <file>',
      'what the clients recorded, as JSON Lines; the last copy in it is judged',
      filled('--history'),
    )
    .addOption(
      new Option('--image <ID=path...>', 'copy of a device: a file, a block device or an NBD URI')
        .argParser(paths('--image', idAndPath))
        .makeOptionMandatory(),
    )
    .action((flags: Flags) => run(flags, context));
}

async function run(flags: Flags, { output, signal }: CommandContext): Promise<void> {
  const { verdict, warnings } = await judgeFiles(flags.history, flags.image, signal);
  output.warn(warnings);
  const document = { history: flags.history, images: flags.image, ...verdictDocument(verdict) };
  output.result(document, describeVerdict(verdict.group), inconsistency(verdict));
}
