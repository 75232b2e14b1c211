import { closeSync, writeSync } from 'node:fs';
import { CofferdamError, messageOf } from '../runtime/errors.js';
import { formatBytes } from '../runtime/sizes.js';
import type { CommandContext } from './command.js';
import { columns } from './table.js';

/** What a command serves until it is stopped. */
export interface Served {
  name: string;
  kind: string;
  sizeBytes: number;
  uri: string;
}

/** How a program that serves ends, for the help. */
export const endOfServing = `SIGTERM and SIGINT (Ctrl-C) end it in order: requests in flight are answered, everything is flushed,
and it exits with 0. A second one ends it at once.

Scripts that start it in the background wait for the line READY on --ready-fd, for example:
  mkfifo ready; cofferdam ... --ready-fd 3 3>ready & read -r _ <ready`;

/**
 * Says what is served, and returns when the program is asked to end.
 *
 * @param readyFd gets a line `READY` once everything can be used, and is closed.
 */
export async function serveUntilStopped(
  { output, signal, expectStop }: CommandContext,
  document: object,
  exports: readonly Served[],
  lines: readonly string[],
  readyFd: number | undefined,
): Promise<void> {
  expectStop();
  const rows = exports.map(({ name, kind, sizeBytes, uri }) => [name, kind, formatBytes(sizeBytes), uri]);
  const table = columns(['EXPORT', 'KIND', '>SIZE', 'URI'], rows);
  output.result({ ready: true, exports, ...document }, [table, ...lines].join('\n'));
  if (readyFd !== undefined) tellReady(readyFd);
  await aborted(signal);
  output.note('cofferdam: stopping');
}

function tellReady(fd: number): void {
  try {
    writeSync(fd, 'READY\n');
    if (fd > 2) closeSync(fd);
  } catch (error) {
    throw new CofferdamError('BAD_ARGUMENT', `--ready-fd ${fd}: cannot be written to: ${messageOf(error)}`);
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
