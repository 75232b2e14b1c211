import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { describe, expect, test } from 'vitest';
import { program, runCli } from '../support/cli.js';
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
    const { failed, seeds, simplest, traceHash } = document(many) as {
      failed: { seed: number }[];
      seeds: number;
      simplest: object;
      traceHash: string;
    };
    expect(seeds).toBe(10);
    expect(failed.length).toBeGreaterThan(0);
    expect(failed.length).toBeLessThan(10);

    const world = ['--seed', String(failed[0]?.seed), '--world', JSON.stringify(simplest)];
    const again = await simulateWith(inTimer(what), ...world, '--trace');
    expect(again.stdout).toMatch(/^ +\d{6}\.\d+ {2}VIOLATION +no hang, no crash: RangeError: boom$/m);
    expect(again.stdout).toContain(`\ntrace ${traceHash}\n`);
    expect(again.exitCode).toBe(1);
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

describe('a copy that is not consistent', () => {
  const noCopyBeforeWrite = `
    import { Snapshot } from '${dist}servers/snapshot.js';
    Snapshot.prototype.preserve = async () => {};`;

  test('is told of with what happened around the writes that prove it, in the simplest world', async () => {
    const { stdout, exitCode } = await simulateWith(noCopyBeforeWrite, '--seeds', '10', '--seed', '1');
    expect(exitCode).toBe(1);
    const [told = ''] = /^BROKEN crash consistency: [^]*?(?=\nBROKEN|$(?![^]))/m.exec(stdout) ?? [];
    const [, missing, present] =
      /missing: write (\d+) of writer [^]*present: write (\d+) of writer/.exec(told) ?? [];
    for (const write of [missing, present]) {
      const pattern = `(write ${write} of writer \\d+ to server \\w): sent at ([\\d.]+) ms, acknowledged at ([\\d.]+) ms`;
      const [, name, sent, acknowledged] = new RegExp(pattern).exec(told) ?? [];
      const line = (ms: string | undefined, what: string): unknown =>
        expect.stringMatching(new RegExp(`^ *${ms} {2}clients +${name} ${what} \\(event \\d+\\)$`));
      expect(stdout.split('\n')).toContainEqual(line(sent, 'is sent'));
      expect(stdout.split('\n')).toContainEqual(line(acknowledged, 'is acknowledged'));
    }
    expect(stdout).toMatch(/^ +[\d.]+ {2}backup-1 +to [a-z]: cut 1$/m);

    const [, seed = '', world = ''] = /--seed (\d+) --trace --world '(.*)'$/m.exec(stdout) ?? [];
    const again = await simulateWith(noCopyBeforeWrite, '--seed', seed, '--world', world, '--trace');
    const [hash = ''] = /^trace [0-9a-f]{32}$/m.exec(again.stdout) ?? ['none'];
    expect(stdout).toContain(hash);
    const times = again.stdout.split('\n').flatMap((line) => /^ *([\d.]+) {2}\S/.exec(line)?.[1] ?? []);
    expect(times).toEqual(times.toSorted((a, b) => Number(a) - Number(b)));
  });
});

test('who is interrupted tells what was found out until then', async () => {
  const child = spawn(process.execPath, [program, 'simulate', '--seeds', '1000000', '--seed', '5']);
  // The first worlds have begun once the seeds are told.
  await once(child.stderr, 'data');
  child.kill('SIGINT');
  const [[exitCode], told] = await Promise.all([once(child, 'close'), text(child.stderr)]);
  expect(exitCode).toBe(130);
  const [, worlds, last] = /^All invariants held in (\d+) worlds, seeds 5 to (\d+): /m.exec(told) ?? [];
  expect(Number(worlds)).toBeGreaterThan(0);
  expect(Number(last)).toBe(4 + Number(worlds));
  expect(told).toMatch(/^cofferdam: CANCELLED: .*\n$(?![^])/m);
});
