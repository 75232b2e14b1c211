import { open } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { KiB, MiB } from '#src/runtime/sizes';
import { randomBytes } from './bytes.js';
import { runProcess, type ProcessOptions, type ProcessResult } from './process.js';

const program = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

/** Says at the end of a process how much memory it had at most. Threads load it too, and are left alone. */
const teller = `data:text/javascript,${encodeURIComponent(`
  import { writeSync } from 'node:fs';
  import { isMainThread } from 'node:worker_threads';
  if (isMainThread) process.on('exit', () => writeSync(2, '\\npeak ' + process.resourceUsage().maxRSS + ' KiB\\n'));
`)}`;

/** As `runCli`, with the largest resident set size that the process reached. */
export async function runCliForMemory(
  args: readonly string[],
  options?: ProcessOptions,
): Promise<ProcessResult & { peakBytes: number }> {
  const result = await runProcess(process.execPath, ['--import', teller, program, ...args], options);
  const [, peakKiB] = /^peak (\d+) KiB$/m.exec(result.stderr) ?? [];
  if (peakKiB === undefined) throw new Error(`the process did not tell its memory: ${result.stderr}`);
  return { ...result, peakBytes: Number(peakKiB) * KiB };
}

/** Makes a file of holes with some data, a megabyte at a time, spread evenly over it. */
export async function makeSparseFile(path: string, sizeBytes: number, dataBytes: number): Promise<void> {
  await using file = await open(path, 'wx');
  await file.truncate(sizeBytes);
  const pieces = dataBytes / MiB;
  for (let piece = 0; piece < pieces; piece++) {
    await file.write(randomBytes(MiB, piece), 0, MiB, Math.floor((piece * sizeBytes) / pieces / MiB) * MiB);
  }
}
