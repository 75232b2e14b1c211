import { Option, type Command } from 'commander';
import type { Strategy } from '../../backup/image/record.js';
import { CofferdamError } from '../../runtime/errors.js';
import { freshSeed } from '../../runtime/random.js';
import { formatDuration, GiB, KiB } from '../../runtime/sizes.js';
import type { Assumptions } from '../../simulation/planning/assumptions.js';
import { plan, type Forecast } from '../../simulation/planning/plan.js';
import type { Quantiles } from '../../simulation/planning/quantiles.js';
import { drawStalls } from '../../simulation/planning/stall-chart.js';
import { duration, filled, size, wholeNumber } from '../arguments.js';
import type { CommandContext } from '../command.js';
import { fileKinds, ReportFile } from '../report-file.js';
import { columns } from '../table.js';
import { count } from '../wording.js';

export interface PlanFlags {
  servers: readonly number[];
  strategy: readonly Strategy[];
  rtt: number;
  tail: number;
  writeLatency: number;
  messageCost: number;
  load: number;
  clients: number;
  deviceSize: number;
  copyRate: number;
  maxStall?: number;
  runs?: number;
  svg?: string;
  seed?: number;
}

/** Each takes some kilobytes and some tens of microseconds. */
const MOST_SERVERS = 100_000;

const strategies: readonly Strategy[] = ['snapshot', 'hold', 'rolling'];

export function addPlanOptions(command: Command): Command {
  return command
    .option('--servers <n,...>', `numbers of servers, up to ${MOST_SERVERS}`, serverCounts)
    .addOption(
      new Option('--strategy <strategy,...>', 'snapshot, hold or rolling, or some of them')
        .argParser(strategyList)
        .default(['snapshot'], 'snapshot'),
    )
    .addOption(latency('--rtt <duration>', 'median round trip between two machines', 0.2, '200us'))
    .addOption(latency('--write-latency <duration>', 'median time of a write on its disk', 0.1, '100us'))
    .option('--tail <factor>', '99th percentile of a latency over its median', factor('--tail', 1), 3)
    .addOption(
      new Option('--message-cost <duration>', 'how long a message keeps the coordinator busy; may be 0')
        .argParser(durationOrNone('--message-cost'))
        .default(0.01, '10us'),
    )
    .option('--load <n>', 'writes per second to each server', factor('--load', 0), 100)
    .option('--clients <n>', 'clients of each server, one write at a time', wholeNumber('--clients', 1), 4)
    .addOption(
      new Option('--device-size <size>', 'size of each device')
        .argParser(size('--device-size'))
        .default(100 * GiB, '100GiB'),
    )
    .addOption(
      new Option('--copy-rate <size/s>', 'how fast devices are copied, one after the other')
        .argParser(size('--copy-rate'))
        .default(500e6, '500MB/s'),
    )
    .option('--max-stall <duration>', 'as with backup (default: 1s, with hold none)', duration('--max-stall'))
    .option(
      '--runs <n>',
      'simulated backups of each kind (default: up to 10, fewer of many servers)',
      wholeNumber('--runs', 1),
    )
    .option('--svg <file>', 'draw how long writes wait against the number of servers', filled('--svg'));
}

export async function runPlan(flags: PlanFlags, { output, signal }: CommandContext): Promise<void> {
  const { servers, strategy, runs, seed = freshSeed() } = flags;
  await using svg = flags.svg === undefined ? undefined : await ReportFile.at(flags.svg, fileKinds.picture);
  const assumptions = assumptionsOf(flags);
  const forecasts = await plan({
    strategies: strategy,
    serverCounts: servers,
    assumptions,
    runs,
    seed,
    signal,
  });
  output.warn(forecasts.filter(({ failedRuns, runs: all }) => failedRuns === all).map(describeFailure));
  // The numbers are worth telling even if the picture cannot be written.
  const failure = await svg?.tryPublish(await drawStalls(forecasts));
  output.result({ seed, assumptions, forecasts }, `${describe(forecasts)}\n\nseed ${seed}`, failure);
}

function assumptionsOf(flags: PlanFlags): Assumptions {
  return {
    rttMs: flags.rtt,
    tail: flags.tail,
    writeMs: flags.writeLatency,
    messageMs: flags.messageCost,
    clients: flags.clients,
    writesPerSecond: flags.load,
    deviceSizeBytes: flags.deviceSize,
    copyBytesPerSecond: flags.copyRate,
    blockSizeBytes: 64 * KiB,
    maxStallMs: flags.maxStall,
  };
}

function describe(forecasts: readonly Forecast[]): string {
  const names = [
    'strategy',
    '>servers',
    '>parked writes',
    '>of all',
    '>p50',
    '>p90',
    '>p99',
    '>p99.9',
    '>max',
  ];
  const rows = forecasts.map(({ strategy, servers, parkedWrites, parkedShare, stallMs }) => [
    strategy,
    servers.toLocaleString('en'),
    Math.round(parkedWrites).toLocaleString('en'),
    share(parkedShare),
    ...(['p50', 'p90', 'p99', 'p999', 'max'] as const).map((quantile) => timeOf(stallMs, quantile)),
  ]);
  const barrierNames = [
    'strategy',
    '>servers',
    '>barrier p50',
    '>max',
    '>group stall p50',
    '>max',
    '>backup',
    '>failed',
  ];
  const barrierRows = forecasts.map((forecast) => [
    forecast.strategy,
    forecast.servers.toLocaleString('en'),
    timeOf(forecast.barrierMs, 'p50'),
    timeOf(forecast.barrierMs, 'max'),
    timeOf(forecast.groupStallMs, 'p50'),
    timeOf(forecast.groupStallMs, 'max'),
    longTime(forecast.backupMs),
    `${forecast.failedRuns} of ${forecast.runs}`,
  ]);
  return [
    'Writes that wait for a barrier, in one backup, and for how long:',
    columns(names, rows),
    '',
    'Barriers, and the cut over all servers:',
    columns(barrierNames, barrierRows),
  ].join('\n');
}

function describeFailure({ strategy, servers }: Forecast): string {
  return (
    `no backup of ${count(servers, 'server')} by ${strategy} succeeds: barriers would be up for longer than ` +
    '--max-stall allows; raise it to see for how long'
  );
}

function timeOf(quantiles: Quantiles | null, quantile: keyof Quantiles): string {
  return quantiles === null ? '-' : longTime(quantiles[quantile]);
}

/** Copies of many devices take days. */
function longTime(ms: number): string {
  const hours = ms / 3_600_000;
  if (hours < 1) return formatDuration(ms);
  return hours < 48 ? `${hours.toFixed(1)} h` : `${Math.round(hours / 24).toLocaleString('en')} days`;
}

function share(part: number): string {
  if (part === 0) return 'none';
  if (part >= 0.01) return `${Math.round(part * 100)} %`;
  return `1 in ${Number((1 / part).toPrecision(2)).toLocaleString('en')}`;
}

function latency(option: string, description: string, defaultMs: number, defaultText: string): Option {
  const parse = duration(option.split(' ')[0] ?? option);
  return new Option(option, description).argParser(parse).default(defaultMs, defaultText);
}

function durationOrNone(option: string): (text: string) => number {
  const parse = duration(option);
  return (text) => (/^0(us|ms|s)?$/.test(text) ? 0 : parse(text));
}

function factor(option: string, from: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d+(\.\d+)?$/.test(text) && value >= from) return value;
    throw new CofferdamError('BAD_ARGUMENT', `${option}: "${text}" is not a number from ${from} up`);
  };
}

function serverCounts(text: string): number[] {
  const counts = text.split(',').map(wholeNumber('--servers', 1));
  const tooMany = counts.find((servers) => servers > MOST_SERVERS);
  if (tooMany === undefined) return counts;
  throw new CofferdamError(
    'BAD_ARGUMENT',
    `--servers: ${tooMany} are too many to simulate; at most ${MOST_SERVERS}`,
  );
}

function strategyList(text: string): Strategy[] {
  return text.split(',').map((word) => {
    const strategy = strategies.find((candidate) => candidate === word);
    if (strategy !== undefined) return strategy;
    throw new CofferdamError('BAD_ARGUMENT', `--strategy: "${word}" is none of ${strategies.join(', ')}`);
  });
}
