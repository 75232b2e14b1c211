import type { BackupResult } from '../backup/backup.js';
import type { BackupTimeline } from '../backup/timeline.js';
import { formatBytes, formatDuration } from '../runtime/sizes.js';
import { html, type Html } from './html.js';
import { facts, figure, page, table } from './page.js';
import { drawTimeline, serversShown } from './timeline-chart.js';

/** Of a backup that was asked for its timeline. */
export type TimedResult = Omit<BackupResult, 'warnings' | 'timeline'> & { timeline: BackupTimeline };

/**
 * A page about one backup: what was copied, how long each server's clients had to wait, and a picture of what happened when.
 *
 * @param image where the backup went, for people.
 * @param about what else is to be said of it.
 */
export async function backupPage(
  image: string,
  about: readonly (readonly [name: string, value: string])[],
  result: TimedResult,
): Promise<string> {
  const body = html`${facts(about)} ${await timelineFigure(result, explanation)}
    <h2>Servers</h2>
    ${servers(result)}`;
  return page(`Generation ${result.generation} of ${image}`, body);
}

export async function timelineFigure(
  { timeline, elapsedMs }: Pick<TimedResult, 'timeline' | 'elapsedMs'>,
  caption: string,
): Promise<Html> {
  return figure(await drawTimeline(timeline, elapsedMs), caption);
}

const explanation =
  'What happened when: of each server, its write barriers above and how far its device was copied below. ' +
  'Before them threads are started; after them all is made durable.';

/** What is worth knowing of the servers: of those that the picture shows. */
function servers({ devices, timeline }: TimedResult): Html {
  const { barriers, copies } = timeline;
  const names = ['server', 'size', 'barrier up', 'writes that waited', 'the longest', 'to copy', 'copied in'];
  const shown = new Set(serversShown(timeline));
  const shownDevices = devices.filter(({ id }) => shown.has(id));
  const rows = shownDevices.map(({ id, sizeBytes }) => {
    const ups = barriers.filter((span) => span.id === id);
    const own = copies.filter((span) => span.id === id);
    const copyMs = own.reduce((sum, { startMs, endMs }) => sum + endMs - startMs, 0);
    return [
      id,
      formatBytes(sizeBytes),
      ups.map(({ holdMs }) => formatDuration(holdMs)).join(' + '),
      ups.reduce((sum, { parkedRequests }) => sum + parkedRequests, 0).toLocaleString('en'),
      formatDuration(Math.max(0, ...ups.map(({ longestParkMs }) => longestParkMs))),
      own.map(({ totalBytes }) => formatBytes(totalBytes)).join(' + '),
      formatDuration(copyMs),
    ];
  });
  const all = table(
    names.map((name, index) => ({ name, isNumber: index > 0 })),
    rows,
  );
  if (rows.length === devices.length) return all;
  const [some, total] = [rows.length, devices.length].map((number) => number.toLocaleString('en'));
  return html`<p>
      The ${some ?? ''} of ${total ?? ''} whose barriers were up for longest, here and in the picture.
    </p>
    ${all}`;
}
