import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { isCofferdamError, type Strategy } from 'cofferdam';
import { messageOf } from '#src/runtime/errors';
import type { Random } from '#src/runtime/random';
import { formatBytes, KiB, MiB } from '#src/runtime/sizes';
import { program } from '../support/cli.js';
import type { Member } from './member.js';
import type { Site } from './site.js';

/** A backup that is about to be made. */
export interface Plan {
  /** `cluster`: a process coordinates all servers; `control`: a process has another do it; `api`: no process between. */
  way: 'cluster' | 'control' | 'api';
  /** Who does it, unless it is `cluster`. */
  member: Member;
  strategy: Strategy;
  closingCut: boolean;
  hash: 'xxh64' | 'blake3';
  blockSizeBytes: number;
  limitBytesPerSecond: number | undefined;
  maxStallMs: number | undefined;
}

export type Outcome =
  | { kind: 'committed'; generation: number }
  | { kind: 'refused'; code: string; message: string }
  | { kind: 'cut short' };

/** A backup under way. */
export interface Attempt {
  readonly ended: Promise<Outcome>;
  readonly hasEnded: boolean;
  /** Ends it: `kill -9` of its process; by the control API it is cancelled. */
  stop(): void;
  /** Lets its process do nothing at all for a while. */
  freeze(ms: number): Promise<void>;
}

/** No backup takes so long, whatever is frozen meanwhile. */
const LONGEST_MS = 180_000;

/** Long enough for a machine that has other things to do. */
const PATIENT_STALL_MS = 30_000;

/** Any kind of backup. One that nothing disturbs is given the time that it takes. */
export function planOf(random: Random, site: Site, isDisturbed: boolean): Plan {
  const strategy = random.pick(['snapshot', 'snapshot', 'hold', 'rolling'] as const);
  return {
    way: random.pick(['cluster', 'cluster', 'control', 'api']),
    member: random.pick(site.members),
    strategy,
    closingCut: strategy !== 'rolling' || !random.chance(0.2),
    hash: random.pick(['xxh64', 'blake3']),
    blockSizeBytes: random.pick([4 * KiB, 64 * KiB, MiB]),
    limitBytesPerSecond: random.chance(0.4) ? undefined : random.pick([32 * MiB, 12 * MiB]),
    maxStallMs: isDisturbed ? undefined : PATIENT_STALL_MS,
  };
}

export function describePlan(plan: Plan): string {
  const { way, member, strategy, closingCut, hash, blockSizeBytes, limitBytesPerSecond: limit } = plan;
  return [
    `backup (${way === 'cluster' ? way : `${way} of ${member.name}`}, ${strategy}${closingCut ? '' : ' without closing cut'}`,
    `${hash}, blocks of ${formatBytes(blockSizeBytes)}${limit === undefined ? '' : `, ${formatBytes(limit)}/s`})`,
  ].join(', ');
}

/** Begins a backup. `ended` rejects only if it does not end. */
export function attempt(plan: Plan, site: Site, imagePath: string): Attempt {
  return plan.way === 'api' ? throughApi(plan, imagePath) : inProcess(plan, site, imagePath);
}

function throughApi(plan: Plan, to: string): Attempt {
  const { way: _, member, ...options } = plan;
  const controller = new AbortController();
  const { signal } = controller;
  let hasEnded = false;
  const outcome = member.control.backup({ to, ...options }, { signal }).then<Outcome, Outcome>(
    ({ generation }) => ({ kind: 'committed', generation }),
    (error: unknown) => {
      if (signal.aborted) return { kind: 'cut short' };
      return refusal(isCofferdamError(error) ? error.code : 'INTERNAL', messageOf(error));
    },
  );
  const ended = inTime(plan, outcome).finally(() => (hasEnded = true));
  return {
    ended,
    get hasEnded() {
      return hasEnded;
    },
    stop: () => controller.abort(),
    freeze: () => Promise.reject(new Error('a backup through the API has no process to freeze')),
  };
}

function inProcess(plan: Plan, site: Site, to: string): Attempt {
  const child = spawn(process.execPath, [program, ...argumentsOf(plan, site, to)], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let hasEnded = false;
  const ended = inTime(plan, outcomeOf(child)).finally(() => (hasEnded = true));
  return {
    ended,
    get hasEnded() {
      return hasEnded;
    },
    stop: () => void child.kill('SIGKILL'),
    freeze: async (ms) => {
      child.kill('SIGSTOP');
      await delay(ms);
      child.kill('SIGCONT');
    },
  };
}

/** @throws Error if it does not end. */
async function inTime(plan: Plan, outcome: Promise<Outcome>): Promise<Outcome> {
  const patience = new AbortController();
  const tooLong = delay(LONGEST_MS, undefined, { signal: patience.signal }).then(() => {
    throw new Error(`this did not end in ${LONGEST_MS} ms: ${describePlan(plan)}`);
  });
  try {
    return await Promise.race([outcome, tooLong]);
  } finally {
    tooLong.catch(() => {});
    patience.abort();
  }
}

function argumentsOf(plan: Plan, site: Site, to: string): string[] {
  const { limitBytesPerSecond, maxStallMs } = plan;
  const source =
    plan.way === 'cluster' ? ['--cluster', site.clusterPath] : ['--control', plan.member.controlPath];
  return [
    ...['backup', '--json', '--to', to, ...source, '--strategy', plan.strategy],
    ...(plan.closingCut ? [] : ['--no-closing-cut']),
    ...['--hash', plan.hash, '--block-size', String(plan.blockSizeBytes)],
    ...(limitBytesPerSecond === undefined ? [] : ['--limit', String(limitBytesPerSecond)]),
    ...(maxStallMs === undefined ? [] : ['--max-stall', `${maxStallMs}ms`]),
  ];
}

async function outcomeOf(child: ChildProcess): Promise<Outcome> {
  const { stdout, stderr } = child;
  if (!stdout || !stderr) throw new Error('the output of a backup is read');
  const [said, complaint, [exitCode]] = await Promise.all([text(stdout), text(stderr), once(child, 'close')]);
  if (exitCode === null) return { kind: 'cut short' };
  // A process that has crashed has not told anything.
  const document = JSON.parse(said === '' ? '{}' : said) as {
    generation?: number;
    error?: { code: string; message: string };
  };
  if (exitCode === 0 && document.generation !== undefined)
    return { kind: 'committed', generation: document.generation };
  return refusal(document.error?.code ?? `exit code ${String(exitCode)}`, complaint.trim());
}

function refusal(code: string, message: string): Outcome {
  return { kind: 'refused', code, message };
}
