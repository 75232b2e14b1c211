import { facts } from '#src/cli/table';
import { formatBytes, formatDuration } from '#src/runtime/sizes';
import type { Life } from './counts.js';
import type { SoakReport } from './soak.js';

/** A report for people. */
export function formatReport({ seed, elapsedMs, counts, lives }: SoakReport): string {
  const { rounds, backups, faults, generations, clients, sectorsChecked } = counts;
  return facts([
    ['seed', String(seed)],
    ['rounds', `${rounds} in ${formatDuration(elapsedMs)}`],
    ['backups committed', String(backups.committed)],
    ['backups cut short', String(backups.cutShort)],
    ['backups refused', named(backups.refused)],
    ['faults', named(faults)],
    ['generations', `${generations.verified} verified, ${generations.restored} restored and compared`],
    [
      'copies judged',
      `${generations.judged}; ${generations.notJudged} not, for a fault lost what nobody had flushed`,
    ],
    ['client writes', `${clients.writes}, and ${clients.flushes} flushes`],
    ['verified reads', String(clients.verifiedReads)],
    ['failed by a fault', `${clients.failedByFault} requests`],
    ['longest write', formatDuration(clients.longestWriteMs)],
    ['sectors checked', String(sectorsChecked)],
    ...lives.map((life) => [life.process, formatLife(life)] as const),
  ]);
}

function formatLife({ samples, residentBytes, descriptors }: Life): string {
  const memory = (['first', 'last', 'max'] as const).map((when) => formatBytes(residentBytes[when]));
  return (
    `resident ${memory.join(', ')} (first, last, max), ` +
    `${descriptors.first}, ${descriptors.last}, ${descriptors.max} descriptors, ${samples} samples`
  );
}

function named(counts: Record<string, number>): string {
  const entries = Object.entries(counts);
  if (entries.length === 0) return '0';
  return entries.map(([name, count]) => `${count} ${name}`).join(', ');
}

/** What went wrong and when; empty if nothing did. */
export function describeFailure({ seed, failure }: SoakReport): string {
  if (!failure) return '';
  const { message, account, directory } = failure;
  return [`FAILED, seed ${seed}: ${message}`, ...account, `What there was is in ${directory}.`].join('\n');
}
