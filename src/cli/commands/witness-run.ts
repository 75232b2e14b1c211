import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Option, type Command } from 'commander';
import { longestStallMs } from '../../backup/image/record.js';
import { makeFolder } from '../../devices/folder.js';
import { CofferdamError } from '../../runtime/errors.js';
import { freshSeed } from '../../runtime/random.js';
import { formatBytes, formatDuration, MiB } from '../../runtime/sizes.js';
import { openCluster } from '../../servers/cluster.js';
import { witnessRun, type WitnessRunResult } from '../../witness/run.js';
import { describeVerdict } from '../../witness/verdict.js';
import { filled, namedUri, paths, wholeNumber } from '../arguments.js';
import { addCommand, type CommandContext, type CommandHelp } from '../command.js';
import { assertServedRight, inconsistency, verdictDocument } from '../judgement.js';
import { ProgressBars } from '../progress-bars.js';
import { restoreImage } from '../image-jobs.js';
import { addStrategyOptions, checkStrategy, type StrategyFlags } from '../strategy-options.js';
import { facts } from '../table.js';
import { commandLine, count } from '../wording.js';
import { runOnTargets, type TargetFlags } from './witness-run-targets.js';

/** Small, so that clients come by every block several times while the devices are copied. */
const DEVICE_BYTES = 16 * MiB;

/** With `hold` clients wait as long as that, and at some point a client takes a request for failed. */
const LONGEST_BACKUP_SECONDS = 10;

const help: CommandHelp = {
  summary: 'copy devices that clients write to, and judge the copy',
  description: `Let clients write dependent chains across devices while a copy is taken: of storage servers of this program, which are
backed up and judged, or of any NBD exports, copied by any command for "witness check" to judge.`,
  example: `cofferdam witness run --servers 4 --seconds 6 --dir right
cofferdam witness run --servers 4 --seconds 6 --dir wrong --strategy rolling --no-closing-cut
cofferdam witness run --target nbd://localhost/a nbd://localhost/b --seconds 6 --history history.jsonl \\
  --copy 'nbdcopy nbd://localhost/a a.img; nbdcopy nbd://localhost/b b.img'
cofferdam witness check --history history.jsonl --image a=a.img b=b.img`,
  remark: `With --target, clients write for half of the time before the copy and for half of it after. To take the copy by hand, give a
command that waits, such as "sleep 60", and take it meanwhile. A write that fails, or whose connection is lost, may or may not
be in a copy.`,
};

interface ServerFlags extends StrategyFlags {
  servers: number;
  seconds: number;
  dir: string;
}

type Flags = Partial<Omit<ServerFlags, 'seconds'>> &
  Partial<Omit<TargetFlags, 'seconds'>> &
  StrategyFlags & { seconds: number; seed?: number };

export function addWitnessRun(witness: Command, context: CommandContext): void {
  const command = addCommand(witness, 'run', help)
    .requiredOption(
      '--seconds <s>',
      'how long clients write; the copy is in the middle of it',
      wholeNumber('--seconds', 1),
    )
    .option(
      '--servers <n>',
      'write to that many storage servers, each with a device of 16 MiB, and back them up',
      wholeNumber('--servers', 1),
    )
    .option(
      '--dir <dir>',
      'with --servers: new or empty folder for devices, history, image and restored copy',
      filled('--dir'),
    );
  addStrategyOptions(command)
    .addOption(
      new Option('--target <[ID=]URI...>', 'write to these NBD exports instead, their first 16 MiB')
        .argParser(paths('--target', namedUri))
        .conflicts(['servers', 'dir', 'strategy', 'closingCut']),
    )
    .option(
      '--copy <command>',
      'with --target: shell command that takes the copy while clients write',
      filled('--copy'),
    )
    .option('--history <file>', 'with --target: where to record what the clients do', filled('--history'))
    .option('--force', 'with --target: overwrite exports that hold something')
    .option(
      '--seed <n>',
      'decides what the clients write (default: a fresh one, printed)',
      wholeNumber('--seed', 0),
    )
    .action((flags: Flags) => run(flags, context));
}

async function run(flags: Flags, context: CommandContext): Promise<void> {
  const { servers, dir, target, copy, history } = flags;
  const seed = flags.seed ?? freshSeed();
  if (target) {
    if (copy === undefined) throw missing('how to take the copy, with --copy COMMAND');
    if (history === undefined) throw missing('where to record what the clients do, with --history FILE');
    context.output.note(`seed ${seed}`);
    return await runOnTargets({ ...flags, target, copy, history }, seed, context);
  }
  if (servers === undefined) throw missing('what to write to, with --servers N or --target URI');
  if (dir === undefined) throw missing('where to put it all, with --dir DIR');
  checkStrategy(flags);
  context.output.note(`seed ${seed}`);
  await runOnServers({ ...flags, servers, dir }, seed, context);
}

function missing(what: string): CofferdamError {
  return new CofferdamError('BAD_ARGUMENT', `say ${what}`);
}

async function runOnServers(flags: ServerFlags, seed: number, context: CommandContext): Promise<void> {
  const { output } = context;
  const places = await prepareFolder(flags);
  const result = await writeAndBackUp(flags, seed, places, context);
  output.warn(result.backup.warnings);
  assertServedRight(result.workload);
  const restored = await restoreImage(places.image, { targets: { directory: places.restored } }, context);

  const check = commandLine([
    'cofferdam',
    'witness',
    'check',
    '--history',
    places.history,
    ...restored.devices.flatMap(({ id, path }) => ['--image', `${id}=${path}`]),
  ]);
  const { warnings: _, ...backupDocument } = result.backup;
  output.result(
    {
      seed,
      ...places,
      check,
      backup: backupDocument,
      workload: result.workload,
      ...verdictDocument(result.verdict),
    },
    describe(result, check),
    inconsistency(result.verdict),
  );
}

interface Places {
  devices: { id: string; path: string }[];
  history: string;
  image: string;
  restored: string;
}

/** @throws CofferdamError TARGET_EXISTS */
async function prepareFolder({ dir, servers }: ServerFlags): Promise<Places> {
  await makeFolder(dir);
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
  flags: ServerFlags,
  seed: number,
  places: Places,
  { output, signal }: CommandContext,
): Promise<WitnessRunResult> {
  await using cluster = await openCluster({
    servers: places.devices.map(({ id, path }) => ({
      id,
      device: { kind: 'file', path, create: DEVICE_BYTES },
    })),
  });
  using bars = new ProgressBars(output.stderr);
  const backupSeconds = Math.min(flags.seconds / 3, LONGEST_BACKUP_SECONDS);
  const restMs = (flags.seconds - backupSeconds) * 1000;
  return await witnessRun({
    cluster,
    to: places.image,
    strategy: flags.strategy,
    closingCut: flags.closingCut,
    // The devices are small; a backup at full speed would be over before the clients have written much.
    limitBytesPerSecond: (flags.servers * DEVICE_BYTES) / backupSeconds,
    seed,
    beforeMs: restMs / 2,
    afterMs: restMs / 2,
    historyPath: places.history,
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
      ['stall', formatDuration(longestStallMs(backup.cut))],
    ]),
    '',
    'To judge the restored copy again:',
    `  ${check}`,
  ].join('\n');
}
