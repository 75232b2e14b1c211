import type { CoreName } from '../../core/core.js';
import { formatBytes, formatDuration } from '../../runtime/sizes.js';
import type { WitnessRunResult } from '../../witness/run.js';
import { verdictDocument } from '../judgement.js';
import { grid } from '../table.js';
import type { Disk } from './disks.js';
import type { FileSystemState } from './file-system.js';
import type { DemoFolder } from './folder.js';

/** A disk that was restored, found to have the content of the original. */
export interface RestoredDisk {
  id: string;
  path: string;
  /** What e2fsck finds; `not checked` where the original has no file system that it knows and finds clean. */
  fileSystem: FileSystemState;
}

export interface RollingRun extends WitnessRunResult {
  /** How many copies were made until one was inconsistent. */
  attempts: number;
}

/** What the demo came to. */
export interface DemoReport {
  seed: number;
  core: CoreName;
  folder: DemoFolder;
  disks: readonly Disk[];
  snapshot: WitnessRunResult;
  restored: readonly RestoredDisk[];
  rolling: RollingRun;
}

/** The report as JSON has it. */
export function demoDocument({ folder, disks, snapshot, restored, rolling, ...rest }: DemoReport): object {
  return {
    ...rest,
    folder: folder.path,
    isFolderKept: folder.isKept,
    disks,
    snapshot: { ...runDocument(snapshot), restored },
    rolling: { ...runDocument(rolling), attempts: rolling.attempts },
  };
}

function runDocument(run: WitnessRunResult): object {
  const { warnings: _, ...backup } = run.backup;
  return { backup, workload: run.workload, ...verdictDocument(run.verdict) };
}

/** The report as a table. */
export function demoTable({ disks, snapshot, restored, rolling }: DemoReport): string {
  const both = (name: string, value: (run: WitnessRunResult) => string): string[] => [
    name,
    value(snapshot),
    value(rolling),
  ];
  const clean = restored.filter(({ fileSystem }) => fileSystem === 'clean').length;
  return grid(
    ['', 'snapshot', 'rolling, no closing cut'],
    [
      both('data', ({ backup }) => {
        const sizeBytes = backup.devices.reduce((sum, device) => sum + device.sizeBytes, 0);
        return `${formatBytes(sizeBytes)} on ${backup.devices.length} disks`;
      }),
      both(
        'read',
        ({ backup }) => `${formatBytes(backup.statistics.readBytes)} in ${formatDuration(backup.elapsedMs)}`,
      ),
      both('throughput', ({ backup }) => {
        return `${formatBytes((backup.statistics.readBytes / Math.max(1, backup.elapsedMs)) * 1000)}/s`;
      }),
      both('zero blocks skipped', ({ backup }) => formatBytes(backup.statistics.zeroBytes)),
      ...disks.map(({ id }) =>
        both(`stall of ${id}`, ({ backup }) => {
          return formatDuration(backup.cut.servers.find((server) => server.id === id)?.holdMs ?? 0);
        }),
      ),
      both('stall of the group', ({ backup }) => formatDuration(backup.cut.group.stallMs)),
      ['verified', 'all blocks', 'not done'],
      ['restored', 'all bytes the same', 'not done'],
      ['file systems', clean === 0 ? 'not checked' : `${clean} clean (e2fsck -fn)`, 'not done'],
      both('verdict', ({ verdict }) =>
        verdict.group.consistent ? 'crash-consistent' : 'NOT crash-consistent',
      ),
    ],
  );
}
