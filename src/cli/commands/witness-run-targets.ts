import { NbdDevice } from '../../nbd/client/device.js';
import type { BlockDevice } from '../../devices/block-device.js';
import { realClock } from '../../runtime/clock.js';
import { CofferdamError } from '../../runtime/errors.js';
import { formatBytes, formatDuration, MiB, SECTOR_BYTES } from '../../runtime/sizes.js';
import type { Area } from '../../witness/area.js';
import { HistoryFile } from '../../witness/history-file.js';
import { freshRun } from '../../witness/stamp.js';
import type { WorkloadStatistics } from '../../witness/statistics.js';
import { watchCopy } from '../../witness/watched-copy.js';
import type { NamedPath } from '../arguments.js';
import type { CommandContext } from '../command.js';
import { assertServedRight } from '../judgement.js';
import { assertReplaceable, fileKinds } from '../report-file.js';
import { runShellCommand } from '../shell-command.js';
import { facts } from '../table.js';
import { commandLine, count } from '../wording.js';

/** Small, so that clients come by every block several times while it is copied. */
const AREA_BYTES = 16 * MiB;

export interface TargetFlags {
  target: readonly NamedPath[];
  seconds: number;
  history: string;
  copy: string;
  force?: boolean;
}

/** Lets clients write to NBD exports of any servers while a command copies them, for `witness check` to judge. */
export async function runOnTargets(flags: TargetFlags, seed: number, context: CommandContext): Promise<void> {
  const { output, signal } = context;
  const { target, history, copy, seconds } = flags;
  await assertReplaceable(history, fileKinds.history);
  const devices = new Map<string, BlockDevice>();
  try {
    for (const { id, path } of target) devices.set(id, await NbdDevice.open(path));
    const areas = [...devices].map(([id, device]) => areaOf(id, device));
    if (!flags.force) for (const area of areas) await assertBlank(area, devices.get(area.id));
    using file = new HistoryFile(history, { run: freshRun(), seed, areas });
    const halfMs = (seconds * 1000) / 2;
    const { workload } = await watchCopy(
      { history: file.history, devices, clock: realClock, beforeMs: halfMs, afterMs: halfMs, signal },
      (stop) => runShellCommand(copy, stop),
    );
    assertServedRight(workload);
    output.result({ seed, targets: target, history, copy, workload }, describe(flags, workload));
  } finally {
    await Promise.all([...devices.values()].map((device) => device.close()));
  }
}

function areaOf(id: string, { sizeBytes }: BlockDevice): Area {
  const areaLengthBytes = Math.min(AREA_BYTES, Math.floor(sizeBytes / SECTOR_BYTES) * SECTOR_BYTES);
  return { id, areaOffsetBytes: 0, areaLengthBytes };
}

/** @throws CofferdamError TARGET_EXISTS */
async function assertBlank({ id, areaLengthBytes }: Area, device: BlockDevice | undefined): Promise<void> {
  const bytes = Buffer.alloc(areaLengthBytes);
  await device?.read(0, bytes);
  if (bytes.every((byte) => byte === 0)) return;
  throw new CofferdamError(
    'TARGET_EXISTS',
    `${id}: its first ${formatBytes(areaLengthBytes)} would be overwritten, and they are not zeros; --force does so`,
    { device: id },
  );
}

function describe({ target, history }: TargetFlags, workload: WorkloadStatistics): string {
  const { writes, writtenBytes, failedWrites, latencyMs } = workload;
  const images = target.map(({ id }) => `${id}=COPY-OF-${id}`);
  return [
    facts([
      [
        'clients',
        `${count(writes, 'write')} (${formatBytes(writtenBytes)}) succeeded, ${failedWrites} failed; ` +
          `they waited at most ${formatDuration(latencyMs.max)}`,
      ],
    ]),
    '',
    'To judge the copy:',
    `  ${commandLine(['cofferdam', 'witness', 'check', '--history', history, '--image', ...images])}`,
  ].join('\n');
}
