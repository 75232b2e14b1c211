import type { Command } from 'commander';
import type { VerifiedDevice, VerifyReport } from '../../backup/verify.js';
import { CofferdamError } from '../../runtime/errors.js';
import { formatBytes } from '../../runtime/sizes.js';
import { filled, generation } from '../arguments.js';
import { addCommand, type CommandContext } from '../command.js';
import { verifyImage } from '../image-jobs.js';
import { columns } from '../table.js';
import { byteRange, count } from '../wording.js';

type Which = number | 'latest' | 'all';

export function addVerify(program: Command, context: CommandContext): void {
  addCommand(program, 'verify', {
    summary: 'check a backup image for damage',
    description:
      'Read everything that the generations of a backup image hold and check it against its hashes.',
    example: 'cofferdam verify nightly.cofferdam --generation latest',
  })
    .argument('<image>', 'backup image', filled('image'))
    .option('--generation <n>', 'number of the generation, latest or all', generation('latest', 'all'), 'all')
    .action((path: string, flags: { generation: Which }) => run(path, flags.generation, context));
}

async function run(path: string, which: Which, context: CommandContext): Promise<void> {
  const report = await verifyImage(path, which, context);
  context.output.result({ image: path, ...report }, describe(report), failureOf(path, report));
}

function failureOf(path: string, report: VerifyReport): CofferdamError | undefined {
  const damaged = report.generations.flatMap(({ generation: number, devices }) =>
    devices.filter(({ bad }) => bad.length > 0).map((device) => ({ number, device })),
  );
  const [first] = damaged;
  const range = first?.device.bad[0];
  if (first && range) {
    const bytes = damaged.reduce((sum, { device }) => sum + badBytes(device), 0);
    return new CofferdamError(
      'BLOCK_CORRUPT',
      `${path}: ${formatBytes(bytes)} cannot be restored, first ${byteRange(range.offsetBytes, range.lengthBytes)} of device ` +
        `${first.device.id} in generation ${first.number}; restore the rest with --skip-bad`,
      { device: first.device.id, offsetBytes: range.offsetBytes, lengthBytes: range.lengthBytes },
    );
  }
  if (report.problems.length === 0) return undefined;
  return new CofferdamError(
    'IMAGE_CORRUPT',
    `${path}: ${count(report.problems.length, 'fault')} in superblocks, catalogs or records, listed above; ` +
      'restore from it what you need, and make a new image',
  );
}

function describe(report: VerifyReport): string {
  const rows = report.generations.flatMap(({ generation: number, devices }) =>
    devices.map((device) => [
      String(number),
      device.id,
      formatBytes(device.sizeBytes),
      device.bad.length === 0 ? 'good' : `${formatBytes(badBytes(device))} BAD`,
    ]),
  );
  const damage = report.generations.flatMap(({ generation: number, devices }) =>
    devices.flatMap(({ id, bad }) =>
      bad.map(
        ({ offsetBytes, lengthBytes, reason }) =>
          `generation ${number}, device ${id}, ${byteRange(offsetBytes, lengthBytes)}: ${reason}`,
      ),
    ),
  );
  return [
    ...(rows.length === 0 ? [] : [columns(['>GENERATION', 'DEVICE', '>SIZE', 'RESULT'], rows)]),
    ...report.problems,
    ...damage,
    report.ok
      ? `All is as it was written: ${count(report.generations.length, 'generation')} checked.`
      : 'Damage was found.',
  ].join('\n');
}

function badBytes(device: VerifiedDevice): number {
  return device.sizeBytes - device.goodBytes;
}
