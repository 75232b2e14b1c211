import { Option, type Command } from 'commander';
import type { RestoreResult } from '../../backup/restore.js';
import { CofferdamError } from '../../runtime/errors.js';
import { formatBytes } from '../../runtime/sizes.js';
import { filled, generation, idAndPath, paths, type NamedPath } from '../arguments.js';
import { addCommand, type CommandContext } from '../command.js';
import { restoreImage } from '../image-jobs.js';
import { columns } from '../table.js';
import { byteRange } from '../wording.js';

interface Flags {
  generation: number | 'latest';
  toDir?: string;
  device?: readonly NamedPath[];
  force?: boolean;
  skipBad?: boolean;
}

export function addRestore(program: Command, context: CommandContext): void {
  addCommand(program, 'restore', {
    summary: 'write a generation back to files or devices',
    description:
      'Write the devices of a generation to files or block devices. Every block is checked against its hash first.',
    example: `cofferdam restore nightly.cofferdam --to-dir restored
cofferdam restore nightly.cofferdam --generation 3 --device db=/dev/vdb --force`,
  })
    .argument('<image>', 'backup image', filled('image'))
    .option('--generation <n>', 'number of the generation, or latest', generation('latest'), 'latest')
    .addOption(
      new Option('--to-dir <dir>', 'write every device to a sparse file ID.img in this folder')
        .argParser(filled('--to-dir'))
        .conflicts('device'),
    )
    .addOption(
      new Option('--device <ID=path...>', 'write this device to this file or block device').argParser(
        paths('--device', idAndPath),
      ),
    )
    .option('--force', 'overwrite files and block devices that exist')
    .option('--skip-bad', 'go on past damaged blocks, leave zeros there and list them')
    .action((path: string, flags: Flags) => run(path, flags, context));
}

async function run(path: string, flags: Flags, context: CommandContext): Promise<void> {
  const result = await restoreImage(
    path,
    {
      generation: flags.generation,
      targets: targetsOf(flags),
      force: flags.force ?? false,
      skipBad: flags.skipBad ?? false,
    },
    context,
  );
  context.output.result({ image: path, ...result }, describe(path, result), failureOf(result));
}

function targetsOf({ toDir, device }: Flags): ReadonlyMap<string, string> | { directory: string } {
  if (toDir !== undefined) return { directory: toDir };
  if (device) return new Map(device.map(({ id, path }) => [id, path]));
  throw new CofferdamError('BAD_ARGUMENT', 'say where to restore to, with --to-dir DIR or --device ID=PATH');
}

function failureOf({ devices: restored }: RestoreResult): CofferdamError | undefined {
  const damaged = restored.filter(({ bad }) => bad.length > 0);
  const [first] = damaged;
  const range = first?.bad[0];
  if (!first || !range) return undefined;
  const bytes = damaged.flatMap(({ bad }) => bad).reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
  return new CofferdamError(
    'BLOCK_CORRUPT',
    `${formatBytes(bytes)} could not be restored and are zeros on the targets, ` +
      `first ${byteRange(range.offsetBytes, range.lengthBytes)} of device ${first.id}`,
    { device: first.id, offsetBytes: range.offsetBytes, lengthBytes: range.lengthBytes },
  );
}

function describe(image: string, { generation: number, devices: restored }: RestoreResult): string {
  const rows = restored.map(({ id, sizeBytes, path, bad }) => [
    id,
    formatBytes(sizeBytes),
    path,
    bad.length === 0 ? 'complete' : 'INCOMPLETE',
  ]);
  const lost = restored.flatMap(({ id, bad }) =>
    bad.map(
      ({ offsetBytes, lengthBytes, reason }) =>
        `lost: device ${id}, ${byteRange(offsetBytes, lengthBytes)}: ${reason}`,
    ),
  );
  return [
    `Restored generation ${number} of ${image}`,
    columns(['DEVICE', '>SIZE', 'TO', 'RESULT'], rows),
    ...lost,
  ].join('\n');
}
