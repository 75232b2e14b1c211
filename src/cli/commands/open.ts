import { Option, type Command } from 'commander';
import { nbdUriAt, parseListenUri, type NbdUri } from '../../nbd/uri.js';
import { CofferdamError } from '../../runtime/errors.js';
import { OpenedGeneration } from '../../service/opened-generation.js';
import { filled, generation } from '../arguments.js';
import { addCommand, type CommandContext, type CommandHelp } from '../command.js';
import { inheritedDescriptor } from '../inherited-descriptors.js';
import { endOfServing, serveUntilStopped } from '../serving.js';

interface Flags {
  generation: number | 'latest';
  listen: NbdUri;
  writable?: boolean;
  overlay?: string;
  readyFd?: number;
}

const help: CommandHelp = {
  summary: 'export a generation over NBD, without restoring it',
  description:
    'Export the devices of a generation over NBD, each under its ID, to be read, copied, mounted or booted from as they are.',
  example: `cofferdam open nightly.cofferdam --listen 'nbd+unix:///?socket=nightly.sock'
cofferdam open nightly.cofferdam --generation 3 --listen nbd://localhost:10810 --writable --overlay trial`,
  remark: `With --writable, what is written goes to files: the image never changes. They are overlays of this generation, and
opened with it again they have what was written before. Delete them to start anew. No generation can be added to the image
while it is open.

${endOfServing}`,
};

export function addOpen(program: Command, context: CommandContext): void {
  addCommand(program, 'open', help)
    .argument('<image>', 'backup image', filled('image'))
    .option('--generation <n>', 'number of the generation, or latest', generation('latest'), 'latest')
    .addOption(
      new Option('--listen <uri>', 'nbd://HOST[:PORT], nbd+unix:///?socket=PATH, or the same with nbds')
        .argParser(parseListenUri)
        .makeOptionMandatory(),
    )
    .option('--writable', 'let clients write; needs --overlay')
    .option(
      '--overlay <path>',
      'file for what is written; of several devices, a folder of such files',
      filled('--overlay'),
    )
    .option(
      '--ready-fd <n>',
      'write READY to this file descriptor when all can be used',
      inheritedDescriptor('--ready-fd'),
    )
    .action((path: string, flags: Flags) => run(path, flags, context));
}

async function run(image: string, flags: Flags, context: CommandContext): Promise<void> {
  checkOverlay(flags);
  const { output } = context;
  await using opened = await OpenedGeneration.open({
    image,
    generation: flags.generation,
    listen: nbdUriAt(flags.listen, process.cwd()),
    overlay: flags.overlay,
    onDamage: (message) => output.note(`cofferdam: warning: ${message}`),
  });
  output.warn(opened.image.warnings);
  const document = { image, generation: opened.generation };
  await serveUntilStopped(context, document, opened.exports, [], flags.readyFd);
}

function checkOverlay({ writable = false, overlay }: Flags): void {
  if (writable === (overlay !== undefined)) return;
  throw new CofferdamError(
    'BAD_ARGUMENT',
    writable
      ? '--writable: say where to keep what is written, with --overlay PATH'
      : '--overlay: is for what is written; add --writable',
  );
}
