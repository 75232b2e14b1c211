import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { isCofferdamError } from 'cofferdam';
import { messageOf } from '#src/runtime/errors';
import { program } from '../support/cli.js';
import { describePlan, type Plan } from './plans.js';
import type { Site } from './site.js';

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
