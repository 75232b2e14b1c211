import { openImage } from '../backup/image/open.js';
import { restore, type RestoreOptions, type RestoreResult } from '../backup/restore.js';
import { verify, type VerifyReport } from '../backup/verify.js';
import type { CommandContext } from './command.js';
import { ProgressBars } from './progress-bars.js';

/** Checks generations of the image at this path, with bars. */
export async function verifyImage(
  path: string,
  generation: number | 'latest' | 'all',
  { output, signal }: CommandContext,
): Promise<VerifyReport> {
  await using image = await openImage(path);
  using bars = new ProgressBars(output.stderr);
  const report = await verify(image, { generation, signal, ...bars.options });
  output.warn(image.warnings.filter((warning) => !report.problems.includes(warning)));
  return report;
}

/** Restores a generation of the image at this path, with bars. */
export async function restoreImage(
  path: string,
  options: Omit<RestoreOptions, 'pool' | 'signal' | 'onProgress'>,
  { output, signal }: CommandContext,
): Promise<RestoreResult> {
  await using image = await openImage(path);
  output.warn(image.warnings);
  using bars = new ProgressBars(output.stderr);
  return await restore(image, { ...options, signal, ...bars.options });
}
