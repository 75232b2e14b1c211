import { execFile } from 'node:child_process';
import { access, constants } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { messageOf } from '../../runtime/errors.js';

/** The path of a program, or undefined. Where the tools of administrators are kept is looked at too. */
export async function findTool(name: string): Promise<string | undefined> {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin'];
  for (const folder of folders.filter((entry) => entry !== '')) {
    const path = join(folder, name);
    const isThere = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (isThere) return path;
  }
  return undefined;
}

/** Runs a program to its end. */
export async function runTool(
  path: string,
  args: readonly string[],
  signal: AbortSignal,
): Promise<{ succeeded: boolean; output: string }> {
  try {
    const { stdout, stderr } = await promisify(execFile)(path, args, { signal, maxBuffer: 2 ** 24 });
    return { succeeded: true, output: stdout + stderr };
  } catch (error) {
    signal.throwIfAborted();
    const stdout = error instanceof Error && 'stdout' in error ? String(error.stdout) : '';
    return { succeeded: false, output: `${stdout}${messageOf(error)}`.trim() };
  }
}
