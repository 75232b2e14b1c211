import { resolve } from 'node:path';
import { Option, type Command } from 'commander';
import { backup, type BackupResult } from '../../backup/backup.js';
import { longestStallMs } from '../../backup/image/record.js';
import { MOST_WORKERS } from '../../backup/pool.js';
import type { BackupTimeline } from '../../backup/timeline.js';
import type { HashAlgorithm } from '../../core/core.js';
import { formatBytes, formatDuration, KiB } from '../../runtime/sizes.js';
import { backupPage } from '../../plot/backup-page.js';
import { CofferdamError, invariant } from '../../runtime/errors.js';
import { openCluster } from '../../servers/cluster.js';
import type { ClusterInput } from '../../servers/cluster-config.js';
import {
  blockSize,
  duration,
  filled,
  given,
  namedPath,
  paths,
  size,
  wholeNumber,
  type NamedPath,
} from '../arguments.js';
import { addCommand, type CommandContext, type CommandHelp } from '../command.js';
import { ProgressBars } from '../progress-bars.js';
import { finalPath } from '../final-path.js';
import { fileKinds, ReportFile } from '../report-file.js';
import { addStrategyOptions, checkStrategy, type StrategyFlags } from '../strategy-options.js';
import { facts } from '../table.js';
import { consistencyInWords, count } from '../wording.js';

interface Flags extends StrategyFlags {
  to: string;
  device?: readonly NamedPath[];
  cluster?: string;
  control?: string;
  blockSize: number;
  hash: HashAlgorithm;
  maxStall?: number;
  limit?: number;
  workers?: number;
  init?: boolean;
  report?: string;
}

const help: CommandHelp = {
  summary: 'copy devices into a backup image',
  description: 'Copy devices as of one instant into a new generation of a backup image.',
  example: `cofferdam backup --to nightly.cofferdam --cluster cluster.yaml
cofferdam backup --to nightly.cofferdam --device db=/srv/db.img log=/srv/log.img`,
  remark: `Strategies:
  snapshot  all barriers go up for an instant; what would be overwritten afterwards is saved first
  hold      all barriers go up, each until its device is copied; needs no space besides
  rolling   one device after the other, and in the end a cut over all for what changed since

--cluster and --control back up a cluster that \`cofferdam serve\` is serving, while its clients go on.
Where one process serves it, the backup runs in that process; --to is a path on its machine.
With --control http://..., COFFERDAM_TOKEN in the environment is the token.

--report shows what happened when: each server's barriers, the writes that waited for them, and the
progress of the copies, in a page that needs nothing but a browser.

With --device the devices are opened for reading only, behind a barrier of this process. A program
that writes to the same file on its own passes that barrier by: stop it first.`,
};

export function addBackup(program: Command, context: CommandContext): void {
  const command = addCommand(program, 'backup', help)
    .requiredOption(
      '--to <image>',
      'backup image: a file, made if it does not exist, or a block device',
      filled('--to'),
    )
    .addOption(
      new Option('--cluster <file>', 'copy the devices of this cluster, which is being served')
        .argParser(filled('--cluster'))
        .conflicts(['device', 'control']),
    )
    .addOption(
      new Option('--control <address>', 'copy the devices of the process at this control address')
        .argParser(filled('--control'))
        .conflicts('device'),
    )
    .addOption(
      new Option(
        '--device <[ID=]path...>',
        'file or block device to copy; its ID is its base name by default',
      ).argParser(paths('--device', namedPath)),
    );
  addStrategyOptions(command)
    .addOption(
      new Option('--block-size <size>', 'unit of copying and hashing, from 4KiB to 4MiB')
        .argParser(blockSize('--block-size'))
        .default(64 * KiB, '64KiB'),
    )
    .addOption(
      new Option('--hash <algorithm>', 'hash of the blocks').choices(['xxh64', 'blake3']).default('xxh64'),
    )
    .option(
      '--max-stall <duration>',
      'fail rather than hold writes up longer than this (default: 1s; hold: no bound)',
      duration('--max-stall'),
    )
    .option('--limit <rate>', 'read no more than this per second, for example 200MiB/s', size('--limit'))
    .option(
      '--workers <n>',
      `threads that copy, up to ${MOST_WORKERS} (default: one per processor)`,
      wholeNumber('--workers', 1, MOST_WORKERS),
    )
    .option('--init', 'make an image on a block device that holds nothing yet')
    .option(
      '--report <file>',
      'write an HTML page about the backup, with a picture of it',
      filled('--report'),
    )
    .action((flags: Flags) => run(flags, context));
}

async function run(flags: Flags, context: CommandContext): Promise<void> {
  checkStrategy(flags);
  await using report = flags.report === undefined ? undefined : await reportAt(flags.report, flags.to);
  const { warnings, timeline, ...result } = await copy(flags, context);
  context.output.warn(warnings);
  const about = factsOf(result);
  const failure = report && (await report.tryPublish(await pageOf(flags.to, about, result, timeline)));
  context.output.result(
    { image: flags.to, ...result, longestStallMs: longestStallMs(result.cut) },
    describe(flags.to, result, about),
    failure && withoutReport(failure, flags.to, result),
  );
}

/** @throws CofferdamError BAD_ARGUMENT if the image is to be there; what {@link ReportFile.at} throws. */
async function reportAt(path: string, image: string): Promise<ReportFile> {
  if ((await finalPath(path)) === (await finalPath(image))) {
    throw new CofferdamError(
      'BAD_ARGUMENT',
      `--report ${path} and --to ${image} are the same file; give the report another name`,
    );
  }
  return await ReportFile.at(path, fileKinds.report);
}

/** The backup is made all the same, and whoever reads of the failure wants to know that first. */
function withoutReport(
  { code, message, cause }: CofferdamError,
  image: string,
  { generation }: Result,
): Error {
  const made = `the backup is made and good, as generation ${generation} of ${image}, but without its report`;
  return new CofferdamError(code, `${made}: ${message}`, { cause });
}

async function pageOf(
  image: string,
  about: Facts,
  result: Result,
  timeline: BackupTimeline | undefined,
): Promise<string> {
  invariant(timeline !== undefined, 'the backup was asked for its timeline');
  return await backupPage(image, about, { ...result, timeline });
}

async function copy(flags: Flags, { output, signal }: CommandContext): Promise<BackupResult> {
  using bars = new ProgressBars(output.stderr);
  const options = {
    initialise: flags.init ?? false,
    strategy: flags.strategy,
    closingCut: flags.closingCut,
    blockSizeBytes: flags.blockSize,
    hash: flags.hash,
    timeline: flags.report !== undefined,
    signal,
    ...given({ maxStallMs: flags.maxStall, limitBytesPerSecond: flags.limit, workers: flags.workers }),
    ...bars.options,
  };
  // Another process may have another working directory.
  const served = { ...options, to: resolve(flags.to) };
  // Loaded only when it is needed: it takes longer than a small backup.
  const loadServed = () => import('../served-backup.js');
  if (flags.cluster !== undefined) return await (await loadServed()).backupClusterFile(flags.cluster, served);
  if (flags.control !== undefined) return await (await loadServed()).backupControl(flags.control, served);
  await using cluster = await openCluster({ servers: devicesOf(flags) });
  // Nobody else uses these devices.
  return await backup({ ...options, servers: cluster.servers, to: flags.to, givesWay: false });
}

function devicesOf({ device }: Flags): ClusterInput['servers'] {
  if (!device) {
    throw new CofferdamError(
      'BAD_ARGUMENT',
      'say what to copy, with --cluster FILE, --control ADDRESS or --device PATH',
    );
  }
  return device.map(({ id, path }) => ({ id, device: { kind: 'file', path, readOnly: true } }));
}

/** What is told to people. */
type Result = Omit<BackupResult, 'warnings' | 'timeline'>;

type Facts = readonly (readonly [name: string, value: string])[];

function describe(image: string, result: Result, about: Facts): string {
  const sizeBytes = result.devices.reduce((sum, device) => sum + device.sizeBytes, 0);
  return [
    `Generation ${result.generation} of ${image}: ${count(result.devices.length, 'device')}, ${formatBytes(sizeBytes)}`,
    facts(about),
  ].join('\n');
}

function factsOf({ consistency, devices, statistics, elapsedMs, cut, fingerprint }: Result): Facts {
  const { readBytes, storedBytes } = statistics;
  const rate = (readBytes / Math.max(1, elapsedMs)) * 1000;
  return [
    ['result', consistencyInWords(consistency, devices.length)],
    ['copied', `${formatBytes(readBytes)} read, ${formatBytes(storedBytes)} stored, the rest is zeros`],
    ['took', `${formatDuration(elapsedMs)} (${formatBytes(rate)}/s)`],
    ['stall', `${formatDuration(longestStallMs(cut))}, the longest that a write could have waited`],
    ['fingerprint', fingerprint],
  ];
}
