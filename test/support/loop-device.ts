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
