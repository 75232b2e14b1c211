import { rm } from 'node:fs/promises';
import { GiB, MiB } from '#src/runtime/sizes';
import { temporaryDirectory } from '../../test/support/directory.js';
import { makeSparseFile, runCliForMemory } from '../../test/support/peak-memory.js';
import { availableCores } from '../cores.js';
import { contest, timesOf } from '../contest.js';
import { median } from '../ratio.js';
import type { Cell, Report } from '../report.js';
import type { Suite, SuiteContext } from '../suite.js';

export const memory: Suite = {
  name: 'memory',
  summary: 'peak memory and time of a backup of a large device with little data',
  run,
};

async function run({ smoke, note }: SuiteContext): Promise<Report> {
  const dataBytes = smoke ? 4 * MiB : 100 * MiB;
  const rows: Cell[][] = [];
  await using directory = temporaryDirectory();
  const [core] = await availableCores();
  for (const sizeBytes of smoke ? [16 * MiB] : [GiB, 8 * GiB, 64 * GiB]) {
    const path = directory.file('sparse.img');
    await makeSparseFile(path, sizeBytes, dataBytes);
    for (const workers of smoke ? [2] : [1, 2, 4, 8]) {
      note(`${sizeBytes} bytes, ${workers} threads`);
      const peaks: number[] = [];
      const to = directory.file('image');
      const backup = async (): Promise<void> => {
        const args = ['backup', '--to', to, '--device', path, '--workers', `${workers}`];
        const { exitCode, stderr, peakBytes } = await runCliForMemory(args);
        if (exitCode !== 0) throw new Error(stderr);
        peaks.push(peakBytes);
      };
      const contestant = { name: 'backup', run: backup, before: () => rm(to, { force: true }) };
      const times = await contest([contestant], { rounds: smoke ? 1 : 3 });
      rows.push([sizeBytes, workers, Math.max(...peaks), median(timesOf(times, 'backup'))]);
    }
    await rm(path);
  }
  return {
    tables: [
      {
        title: `A whole command, on the ${core?.name} core, on sparse files with ${dataBytes / MiB} MiB of data`,
        columns: [
          { name: 'device', unit: 'bytes' },
          { name: 'threads', unit: 'count' },
          { name: 'peak memory', unit: 'bytes' },
          { name: 'time, median', unit: 'ms' },
        ],
        rows,
      },
    ],
    notes: ['Peak memory is the largest resident set size of the process, in the worst of its runs.'],
  };
}
