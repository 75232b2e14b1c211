import type { Command } from 'commander';
import { openImage } from '../../backup/image/open.js';
import { longestStallMs, type GenerationRecord, type ServerCertificate } from '../../backup/image/record.js';
import { formatBytes, formatDuration } from '../../runtime/sizes.js';
import { filled, generation } from '../arguments.js';
import { addCommand, type CommandContext } from '../command.js';
import { columns, facts } from '../table.js';
import { consistencyInWords, timeInWords } from '../wording.js';

export function addShow(program: Command, context: CommandContext): void {
  addCommand(program, 'show', {
    summary: 'show one generation of a backup image',
    description: 'Show one generation of a backup image: its devices and the evidence for its consistency.',
    example: 'cofferdam show nightly.cofferdam --generation 3',
  })
    .argument('<image>', 'backup image', filled('image'))
    .option('--generation <n>', 'number of the generation, or latest', generation('latest'), 'latest')
    .action((path: string, flags: { generation: number | 'latest' }) => run(path, flags.generation, context));
}

async function run(path: string, which: number | 'latest', { output }: CommandContext): Promise<void> {
  await using image = await openImage(path);
  output.warn(image.warnings);
  const record = await image.record(which);
  const { fingerprint } = image.entry(record.generation);
  output.result(
    { image: path, fingerprint, ...record, longestStallMs: longestStallMs(record.cut) },
    describe(path, record, fingerprint),
  );
}

function describe(path: string, record: GenerationRecord, fingerprint: string): string {
  const { statistics, cut } = record;
  const { overlapMs } = cut.group;
  const overlap =
    overlapMs === null
      ? 'there was no instant at which all barriers were up'
      : `all barriers were up together for ${formatDuration(overlapMs)}`;
  return [
    `Generation ${record.generation} of ${path}`,
    facts([
      ['result', consistencyInWords(record.consistency, record.devices.length)],
      ['strategy', record.strategy],
      ['began', timeInWords(record.startedAt)],
      ['finished', timeInWords(record.finishedAt)],
      ['kind', record.parent === null ? 'full' : `incremental of generation ${record.parent}`],
      ['hash', record.hashAlgorithm],
      ['stored', `${formatBytes(statistics.storedBytes)}, ${formatBytes(statistics.zeroBytes)} are zeros`],
      [
        'stall',
        `${formatDuration(longestStallMs(cut))}, the longest that a write could have waited; ${overlap}`,
      ],
      ['fingerprint', fingerprint],
    ]),
    '',
    'Devices',
    indented(
      columns(
        ['ID', '>SIZE', '>BYTES', '>BLOCK'],
        record.devices.map(({ id, sizeBytes, blockSizeBytes }) => [
          id,
          formatBytes(sizeBytes),
          String(sizeBytes),
          formatBytes(blockSizeBytes),
        ]),
      ),
    ),
    ...cutInWords('Cut', cut.servers),
    ...cutInWords('Cuts of single devices before it', cut.firstPass ?? []),
  ].join('\n');
}

function cutInWords(title: string, servers: readonly ServerCertificate[]): string[] {
  if (servers.length === 0) return [];
  const names = ['SERVER', '>EPOCH', '>BARRIER UP', '>WRITES PARKED', '>LONGEST WAIT', 'HELD WITHOUT BREAK'];
  const rows = servers.map((server) => [
    server.id,
    String(server.epoch),
    formatDuration(server.holdMs),
    String(server.parkedRequests),
    server.parkedRequests === 0 ? '-' : formatDuration(server.longestParkMs),
    server.heldWithoutBreak ? 'yes' : 'NO',
  ]);
  return ['', title, indented(columns(names, rows))];
}

function indented(text: string): string {
  return text.replaceAll(/^/gm, '  ');
}
