import type { BlockDevice } from '../devices/block-device.js';
import { openDevice } from '../devices/open.js';
import { NbdDevice } from '../nbd/client/device.js';
import { isNbdUri } from '../nbd/uri.js';
import { CofferdamError } from '../runtime/errors.js';
import { readHistory } from '../witness/history-file.js';
import type { History } from '../witness/history.js';
import { judgeCopy, type CopyVerdict } from '../witness/judge.js';
import type { WorkloadStatistics } from '../witness/statistics.js';
import type { Verdict } from '../witness/verdict.js';
import type { NamedPath } from './arguments.js';

/** What became of judging files, block devices or NBD exports. */
export interface FileJudgement {
  verdict: CopyVerdict;
  warnings: string[];
}

/**
 * Judges files, block devices or NBD exports as the last copy that a history tells of.
 *
 * @throws CofferdamError BAD_HISTORY, UNKNOWN_DEVICE, and what opening and reading devices throws
 */
export async function judgeFiles(
  historyPath: string,
  images: readonly NamedPath[],
  signal: AbortSignal,
): Promise<FileJudgement> {
  const { history, truncatedAtLine } = await readHistory(historyPath);
  const copy = lastCopy(history, historyPath);
  const known = history.header.areas.map(({ id }) => id);
  const devices = new Map<string, BlockDevice>();
  try {
    for (const { id, path } of images) {
      if (!known.includes(id)) {
        throw new CofferdamError(
          'UNKNOWN_DEVICE',
          `${historyPath} tells of no device ${id}; it has ${known.join(', ')}`,
          { device: id },
        );
      }
      devices.set(
        id,
        isNbdUri(path) ? await NbdDevice.open(path) : await openDevice(path, { readOnly: true }),
      );
    }
    const verdict = await judgeCopy(history, devices, history.windowOf(copy), signal);
    const warnings =
      truncatedAtLine === undefined ? [] : [`${historyPath} was cut off in line ${truncatedAtLine}`];
    return { verdict, warnings };
  } finally {
    await Promise.all([...devices.values()].map((device) => device.close()));
  }
}

function lastCopy(history: History, path: string): number {
  const completed = history.copies.findLast((marks) => marks.completed !== undefined);
  if (completed) return completed.copy;
  throw new CofferdamError(
    'BAD_HISTORY',
    `${path}: no copy completed in this history, so there is none to judge`,
  );
}

/** A verdict as JSON has it. */
export function verdictDocument({ group, devices }: CopyVerdict): {
  consistent: boolean;
  group: Verdict;
  devices: Verdict[];
} {
  return { consistent: group.consistent, group, devices: [...devices.values()] };
}

/** Stops the program on a read that did not find what was written before it: no failure, a wrong answer. */
export function assertServedRight({ violations, firstViolation }: WorkloadStatistics): void {
  if (violations > 0) throw new Error(`a client read what it should not: ${firstViolation}`);
}

/** The failure of a command whose copy turned out not to be consistent. */
export function inconsistency({ group }: CopyVerdict): CofferdamError | undefined {
  if (group.consistent) return undefined;
  return new CofferdamError(
    'NOT_CONSISTENT',
    `no power loss at any one instant could have left this copy of ${group.devices.join(', ')} (${group.reason})`,
  );
}
