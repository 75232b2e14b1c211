import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { CoreName } from '#src/core/core';

const program = `
  const { openDevice } = await import('#src/devices/open');
  const { loadCore } = await import('#src/core/load');
  const { core, ...options } = JSON.parse(process.argv[2]);
  const device = await openDevice(process.argv[1], { ...options, core: await loadCore(core) });
  process.stdout.write('open');
  process.stdin.resume().on('end', () => process.exit());
`;

/** Has another process keep a device open until the scope ends. It does not close it: it just ends. */
export async function holdOpen(
  path: string,
  options: { readOnly?: boolean; core?: CoreName } = {},
): Promise<AsyncDisposable> {
  const child = spawn(
    process.execPath,
    ['--input-type=module', '--eval', program, path, JSON.stringify(options)],
    { cwd: new URL('../..', import.meta.url), stdio: ['pipe', 'pipe', 'inherit'] },
  );
  const exited = once(child, 'exit');
  await Promise.race([
    once(child.stdout, 'data'),
    exited.then(() => Promise.reject(new Error('the other process could not open the device'))),
  ]);
  return {
    [Symbol.asyncDispose]: async () => {
      child.stdin.end();
      await exited;
    },
  };
}
