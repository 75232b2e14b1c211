import { expect, test } from 'vitest';
import { effortOfCommand } from '../../bench/effort.js';

test('a command that leaves its last line of complaints open is measured all the same', async () => {
  const { elapsedMs, processorMs } = await effortOfCommand(
    'printf "99.9 99.9 99.9 \\r  \\r" >&2; sleep "$1"',
    ['0.02'],
  );
  // No sleep ends before its time.
  expect(elapsedMs).toBeGreaterThanOrEqual(20);
  expect(elapsedMs).toBeLessThan(99_900);
  expect(processorMs).toBeGreaterThan(0);
});

test('a command that fails is no measurement', async () => {
  await expect(effortOfCommand('exit 3')).rejects.toThrow();
});
