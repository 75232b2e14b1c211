import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import type { Random } from '#src/runtime/random';
import type { Attempt } from './attempt.js';
import type { Member } from './member.js';
import type { Site } from './site.js';

/** What disturbs a backup and the clients. */
export const FAULTS = [
  'backups at once',
  'backup killed',
  'backup cancelled',
  'backup frozen',
  'server killed',
  'server frozen',
  'power cut',
] as const;
export type Fault = (typeof FAULTS)[number];

/** How long a process is frozen: for less than any lease, for longer than the shortest, and than the longest of a barrier. */
const FREEZES_MS = [300, 2000, 12_000] as const;

const noBackups = ['EPOCH_STALE', 'CUT_ABORTED', 'CUT_VOID', 'STALL_BUDGET_EXCEEDED'];
const noSources = [
  ...['CONNECTION_FAILED', 'CONNECTION_LOST', 'POWER_CUT', 'CONTROL_FAILED', 'UNKNOWN_SNAPSHOT'],
  ...['SOURCE_READ_FAILED', 'SNAPSHOT_BROKEN'],
];

/** The codes that a backup may be refused with when this happens to it. */
export function codesOf(fault: Fault | undefined): readonly string[] {
  if (fault === undefined) return [];
  // A backup that copies behind its barrier finds out while it reads that another one has taken the server over.
  if (fault === 'backups at once') return [...noBackups, 'SOURCE_READ_FAILED'];
  if (fault === 'backup cancelled') return noBackups;
  return [...noBackups, ...noSources];
}

export interface Struck {
  /** Servers that lost their power or their process, so that their clients were disconnected. */
  servers: readonly string[];
  /** For people. */
  account: string;
}

const powerCutAnswer = z.object({ seed: z.int() });

/** Strikes at some moment of a backup. What was killed stays so. */
export async function strike(fault: Fault, running: Attempt, site: Site, random: Random): Promise<Struck> {
  const { mortal } = site;
  await moment(running, site, random);
  const when = running.hasEnded ? 'after the backup' : 'during the backup';
  const account = `${fault} ${when}`;
  switch (fault) {
    case 'backups at once':
      return { servers: [], account };
    case 'backup killed':
    case 'backup cancelled':
      running.stop();
      return { servers: [], account };
    case 'backup frozen': {
      const ms = random.pick(FREEZES_MS);
      await running.freeze(ms);
      return { servers: [], account: `${account} for ${ms} ms` };
    }
    case 'server frozen': {
      const ms = random.pick(FREEZES_MS);
      await mortal.freeze(ms);
      return { servers: [], account: `${account} for ${ms} ms` };
    }
    case 'server killed':
      await mortal.kill();
      return { servers: mortal.servers, account };
    case 'power cut': {
      const member = random.pick(site.members);
      const servers = await cutPower(member, random);
      return { servers, account: `${account}: ${servers.join(', ')}` };
    }
  }
}

async function cutPower(member: Member, random: Random): Promise<readonly string[]> {
  const some = member.servers.filter(() => random.chance(0.5));
  const servers = some.length > 0 ? some : member.servers;
  const body = { servers: [...servers], seed: random.uint32() };
  await member.control.get(powerCutAnswer, { method: 'POST', path: '/v1/power-cut', body });
  return servers;
}

/** Waits for some time, or until the backup has something at the servers and then a little. */
async function moment(running: Attempt, site: Site, random: Random): Promise<void> {
  if (random.chance(0.5)) {
    await Promise.race([delay(random.below(1200)), running.ended]);
    return;
  }
  const littleMs = random.below(400);
  while (!running.hasEnded && !(await isBusy(site))) await delay(5);
  await delay(littleMs);
}

async function isBusy({ members }: Site): Promise<boolean> {
  const statuses = await Promise.all(members.map(({ control }) => control.status()));
  return statuses.some(({ servers }) =>
    servers.some(({ barrierUp, snapshots }) => barrierUp || snapshots > 0),
  );
}
