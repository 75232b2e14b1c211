import type { Command } from 'commander';
import { openImage } from '../../backup/image/open.js';
import type { CatalogEntry } from '../../backup/image/image.js';
import { formatBytes } from '../../runtime/sizes.js';
import { filled } from '../arguments.js';
import { addCommand, type CommandContext } from '../command.js';
import { columns } from '../table.js';
import { consistencyInShort, shortFingerprint, timeInWords } from '../wording.js';

export function addList(program: Command, context: CommandContext): void {
  addCommand(program, 'list', {
    summary: 'list the generations of a backup image',
    description: 'List the generations of a backup image, the oldest first.',
    example: 'cofferdam list nightly.cofferdam',
  })
    .argument('<image>', 'backup image', filled('image'))
    .action((path: string) => run(path, context));
}

async function run(path: string, { output }: CommandContext): Promise<void> {
  await using image = await openImage(path);
  output.warn(image.warnings);
  const { uuid, generations } = image;
  const text = generations.length === 0 ? `${path} holds no generation yet` : describe(generations);
  // Where a record lies in the image is nobody's business outside it.
  const entries = generations.map(({ record: _, ...entry }) => entry);
  output.result({ image: path, uuid, generations: entries }, text);
}

function describe(generations: readonly CatalogEntry[]): string {
  const names = [
    '>GENERATION',
    'FINISHED',
    'STRATEGY',
    'CONSISTENT',
    '>DEVICES',
    '>SIZE',
    '>STORED',
    'FINGERPRINT',
  ];
  return columns(
    names,
    generations.map((entry) => [
      String(entry.generation),
      timeInWords(entry.finishedAt),
      entry.strategy,
      consistencyInShort(entry.consistency),
      String(entry.deviceCount),
      formatBytes(entry.sizeBytes),
      formatBytes(entry.storedBytes),
      shortFingerprint(entry.fingerprint),
    ]),
  );
}
