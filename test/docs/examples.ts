import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { program } from '../support/cli.js';
import type { TemporaryDirectory } from '../support/directory.js';
import { runProcess, type ProcessResult } from '../support/process.js';

/** The folder of the project. */
export const root = fileURLToPath(new URL('../..', import.meta.url));

/** @param name of a file, from the folder of the project. */
export function readPage(name: string): Promise<string> {
  return readFile(join(root, name), 'utf8');
}

/** The code blocks of a language, in order. */
export function blocks(page: string, language: string): string[] {
  return [...page.matchAll(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\``, 'gms'))].map(
    (match) => match[1] ?? '',
  );
}

/** What a page links to in this project, without the place within it. */
export function links(page: string): string[] {
  return [...page.matchAll(/\]\(([^)#:]+)(?:#[^)]*)?\)/g)].map((match) => match[1] ?? '');
}

/** Runs a script in a folder, in a shell that stops at the first failure and knows the program. */
export async function runScript(
  directory: TemporaryDirectory,
  script: string,
  { shell = '/bin/sh', timeoutMs }: { shell?: string; timeoutMs: number },
): Promise<ProcessResult> {
  const path = [await programOnPath(directory), process.env['PATH'] ?? '', '/usr/sbin', '/sbin'];
  return await runProcess(shell, ['-c', `set -eu\n${script}`], {
    cwd: directory.path,
    env: { PATH: path.join(delimiter) },
    timeoutMs,
  });
}

/** A folder for the PATH with the program in it. */
async function programOnPath(directory: TemporaryDirectory): Promise<string> {
  const bin = join(directory.path, 'bin');
  await mkdir(bin);
  await writeFile(join(bin, 'cofferdam'), `#!/bin/sh\nexec ${process.execPath} ${program} "$@"\n`);
  await chmod(join(bin, 'cofferdam'), 0o755);
  return bin;
}
