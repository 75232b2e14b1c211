import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { temporaryDirectory } from './directory.js';
import { run } from './loop-device.js';

/** An NBD export as a file of this machine. */
export interface FuseFile extends AsyncDisposable {
  readonly path: string;
}

/** Shows an NBD export as a file until the scope ends. Needs root, nbdfuse, fusermount3 and /dev/fuse. */
export async function mountExport(uri: string): Promise<FuseFile> {
  const directory = temporaryDirectory();
  const folder = directory.file('mount');
  await mkdir(folder);
  const path = join(folder, 'nbd');
  const child = spawn('nbdfuse', [path, uri], { stdio: ['ignore', 'ignore', 'pipe'] });
  const exited = once(child, 'exit');
  const stderr = text(child.stderr);
  while (!(await exists(path))) {
    if (child.exitCode !== null) throw new Error(`nbdfuse ended: ${await stderr}`);
    await delay(10);
  }
  return {
    path,
    [Symbol.asyncDispose]: async () => {
      await run('fusermount3', '-u', folder);
      await exited;
      await directory[Symbol.asyncDispose]();
    },
  };
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}
