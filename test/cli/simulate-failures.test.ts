import { fileURLToPath, pathToFileURL } from 'node:url';
import { describe, expect, test } from 'vitest';
import { runCli } from '../support/cli.js';
import type { ProcessResult } from '../support/process.js';
import { document } from './expectations.js';

const dist = pathToFileURL(fileURLToPath(new URL('../../dist/', import.meta.url))).href;

/** Runs `cofferdam simulate` with something added that makes it wrong, in all of its threads. */
function simulateWith(wrong: string, ...args: string[]): Promise<ProcessResult> {
  const module = `data:text/javascript,${encodeURIComponent(wrong)}`;
  return runCli(['simulate', ...args], { env: { NODE_OPTIONS: `--import=${module}` } });
}

/** In some worlds there is nothing as late as this. */
const LATE_MS = 138_500;

/** Something that happens in a timer after so much simulated time. */
const inTimer = (what: string, fromMs = LATE_MS): string => `
  import { VirtualTime } from '${dist}simulation/virtual-time.js';
  const { setTimer } = VirtualTime.prototype;
  VirtualTime.prototype.setTimer = function (delayMs, action) {
    return setTimer.call(this, delayMs, () => {
      if (this.nowMs() > ${fromMs}) { ${what} }
      action();
    });
  };`;

describe.each([
  { how: 'is thrown', what: "throw new RangeError('boom');" },
  { how: 'is thrown later', what: "setImmediate(() => { throw new RangeError('boom'); });" },
  { how: 'is of a promise that nobody waits for', what: "void Promise.reject(new RangeError('boom'));" },
])('an error in a world that $how', ({ what }) => {
  test('is a broken invariant of its seed, and the same when the seed is run again', async () => {
    const many = await simulateWith(inTimer(what), '--seeds', '10', '--seed', '1', '--json');
    expect(many.stderr).toMatch(
      /^cofferdam: SIMULATION_FAILED: seed \d+: no hang, no crash: RangeError: boom$/m,
    );
    expect(many.exitCode).toBe(1);
    const { failed, seeds } = document(many) as { failed: { seed: number }[]; seeds: number };
    expect(seeds).toBe(10);
    expect(failed.length).toBeGreaterThan(0);
    expect(failed.length).toBeLessThan(10);

    const seed = String(failed[0]?.seed);
    const runs = [];
    for (let run = 0; run < 2; run++) runs.push(await simulateWith(inTimer(what), '--seed', seed, '--trace'));
    expect(runs[0]).toEqual(runs[1]);
    expect(runs[0]?.stdout).toMatch(/^ +\d{6}\.\d+ {2}VIOLATION +no hang, no crash: RangeError: boom$/m);
    expect(runs[0]?.stdout).toMatch(/^trace [0-9a-f]{32}$/m);
    expect(runs[0]?.exitCode).toBe(1);
  });
});

test('a thread that ends is told of with the seeds that it ran', async () => {
  const exit = `import { isMainThread } from 'node:worker_threads'; ${inTimer('if (!isMainThread) process.exit();')}`;
  const result = await simulateWith(exit, '--seeds', '10', '--seed', '1');
  expect(result.stderr).toMatch(/^cofferdam: SIMULATION_FAILED: the thread that ran seeds 1 to 10 ended: /m);
  expect(result.exitCode).toBe(1);
});

test('the seeds are told of before they are run', async () => {
  const result = await simulateWith(inTimer("process.kill(process.pid, 'SIGKILL')", 0), '--seeds', '10');
  const [, first, last] = /^seeds (\d+) to (\d+)\n$/.exec(result.stderr) ?? [];
  expect(Number(last)).toBe(Number(first) + 9);
});
