import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Command } from 'commander';
import { CofferdamError } from '../../runtime/errors.js';
import { freshSeed } from '../../runtime/random.js';
import { formatBytes, formatDuration, MiB } from '../../runtime/sizes.js';
import { openCluster } from '../../servers/cluster.js';
import { witnessRun, type WitnessRunResult } from '../../witness/run.js';
import { describeVerdict } from '../../witness/verdict.js';
import { wholeNumber } from '../arguments.js';
import { addCommand, type CommandContext } from '../command.js';
import { assertServedRight, inconsistency, verdictDocument } from '../judgement.js';
import { ProgressBars } from '../progress-bars.js';
import { restoreImage } from '../image-jobs.js';
import { addStrategyOptions, checkStrategy, type StrategyFlags } from '../strategy-options.js';
import { facts } from '../table.js';
import { commandLine, count } from '../wording.js';

/** Small, so that clients come by every block several times while the devices are copied. */
const DEVICE_BYTES = 16 * MiB;

/** With `hold` clients wait as long as that, and at some point a client takes a request for failed. */
const LONGEST_BACKUP_SECONDS = 10;

interface Flags extends StrategyFlags {
  servers: number;
  seconds: number;
  dir: string;
  seed?: number;
}

export function addWitnessRun(witness: Command, context: CommandContext): void {
  const command = addCommand(witness, 'run', {
    summary: 'back up servers that clients write to, and judge the copy',
    description:
      'Let clients write dependent chains across servers, back the servers up meanwhile, and judge the copy.',
    example: `cofferdam witness run --servers 4 --seconds 6 --dir right
cofferdam witness run --servers 4 --seconds 6 --dir wrong --strategy rolling --no-closing-cut`,
  })
    .requiredOption(
      '--servers <n>',
      'storage servers, each with a device of 16 MiB',
      wholeNumber('--servers', 1),
    )
    .requiredOption(
      '--seconds <s>',
      'how long clients write; the backup is in the middle of it',
      wholeNumber('--seconds', 1),
    )
    .requiredOption('--dir <dir>', 'new or empty folder for devices, history, image and restored copy');
  addStrategyOptions(command)
    .option(
      '--seed <n>',
      'decides what the clients write (default: a fresh one, printed)',
      wholeNumber('--seed', 0),
    )
    .action((flags: Flags) => run(flags, context));
}

async function run(flags: Flags, context: CommandContext): Promise<void> {
  checkStrategy(flags);
  const { output } = context;
  const seed = flags.seed ?? freshSeed();
  output.note(`seed ${seed}`);
  const paths = await prepareFolder(flags);
  const result = await writeAndBackUp(flags, seed, paths, context);
  output.warn(result.backup.warnings);
  assertServedRight(result.workload);
  const restored = await restoreImage(paths.image, { targets: { directory: paths.restored } }, context);

  const check = commandLine([
    'cofferdam',
    'witness',
    'check',
    '--history',
    paths.history,
    ...restored.devices.flatMap(({ id, path }) => ['--image', `${id}=${path}`]),
  ]);
  const { warnings: _, ...backupDocument } = result.backup;
  output.result(
    {
      seed,
      ...paths,
      check,
      backup: backupDocument,
      workload: result.workload,
      ...verdictDocument(result.verdict),
    },
    describe(result, check),
    inconsistency(result.verdict),
  );
}

interface Paths {
  devices: { id: string; path: string }[];
  history: string;
  image: string;
  restored: string;
}

/** @throws CofferdamError TARGET_EXISTS */
async function prepareFolder({ dir, servers }: Flags): Promise<Paths> {
  await mkdir(dir, { recursive: true });
  if ((await readdir(dir)).length > 0) {
    throw new CofferdamError(
      'TARGET_EXISTS',
      `${dir} is not empty; give a new folder, so that nothing is overwritten`,
    );
  }
  return {
    devices: Array.from({ length: servers }, (_, number) => ({
      id: `disk${number}`,
      path: join(dir, `disk${number}.img`),
    })),
    history: join(dir, 'history.jsonl'),
    image: join(dir, 'backup.cofferdam'),
    restored: join(dir, 'restored'),
  };
}

async function writeAndBackUp(
  flags: Flags,
  seed: number,
  paths: Paths,
  { output, signal }: CommandContext,
): Promise<WitnessRunResult> {
  await using cluster = await openCluster({
    servers: paths.devices.map(({ id, path }) => ({
      id,
      device: { kind: 'file', path, create: DEVICE_BYTES },
    })),
  });
  using bars = new ProgressBars(output.stderr);
  const backupSeconds = Math.min(flags.seconds / 3, LONGEST_BACKUP_SECONDS);
  const restMs = (flags.seconds - backupSeconds) * 1000;
  return await witnessRun({
    cluster,
    to: paths.image,
    strategy: flags.strategy,
    closingCut: flags.closingCut,
    // The devices are small; a backup at full speed would be over before the clients have written much.
    limitBytesPerSecond: (flags.servers * DEVICE_BYTES) / backupSeconds,
    seed,
    beforeMs: restMs / 2,
    afterMs: restMs / 2,
    historyPath: paths.history,
    signal,
    ...bars.options,
  });
}

function describe({ backup, workload, verdict }: WitnessRunResult, check: string): string {
  return [
    describeVerdict(verdict.group),
    '',
    facts([
      [
        'clients',
        `${count(workload.writes, 'write')} (${formatBytes(workload.writtenBytes)}) succeeded, ${workload.failedWrites} failed; ` +
          `they waited at most ${formatDuration(workload.latencyMs.max)}`,
      ],
      [
        'backup',
        `${backup.strategy}, generation ${backup.generation}, took ${formatDuration(backup.elapsedMs)}`,
      ],
      ['stall', formatDuration(backup.cut.group.stallMs)],
    ]),
    '',
    'To judge the restored copy again:',
    `  ${check}`,
  ].join('\n');
}
