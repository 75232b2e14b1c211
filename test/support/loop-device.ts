import { runProcess } from './process.js';

export interface LoopDevice extends AsyncDisposable {
  /** For example `/dev/loop3`. */
  readonly path: string;
}

/** Attaches a file to a free loop device until the scope ends. Needs root and losetup. */
export async function attachLoop(file: string, ...options: string[]): Promise<LoopDevice> {
  const path = (await run('losetup', '--find', '--show', ...options, file)).trim();
  return {
    path,
    [Symbol.asyncDispose]: async () => {
      await run('losetup', '--detach', path);
    },
  };
}

/**
 * Divides a loop device into partitions of this size: `/dev/loop3p1` and `/dev/loop3p2`. It must be attached with
 * `--partscan`, so that they go when it goes. Needs addpart, which needs no table that the kernel can read.
 */
export async function addPartitions(loop: LoopDevice, partitionBytes: number): Promise<void> {
  const sectors = partitionBytes / 512;
  for (const number of [1, 2]) {
    await run('addpart', loop.path, String(number), String(2048 + (number - 1) * sectors), String(sectors));
  }
}

/** Mounts something until the scope ends. Needs root. */
export async function mount(...args: string[]): Promise<AsyncDisposable> {
  await run('mount', ...args);
  return {
    [Symbol.asyncDispose]: async () => {
      await run('umount', args.at(-1) ?? '');
    },
  };
}

/** Runs a program that must succeed and returns what it printed. */
export async function run(command: string, ...args: string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await runProcess(command, args, {
    env: { PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` },
  });
  if (exitCode !== 0) throw new Error(`${[command, ...args].join(' ')} failed: ${stderr}`);
  return stdout;
}
