import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { exitCodeOf, failureOf } from '#src/cli/failure';
import { CofferdamError } from '#src/runtime/errors';
import { runCli } from '../support/cli.js';

test('a failure keeps what is known about it, on one line', () => {
  const details = { device: 'a', offsetBytes: 4096, lengthBytes: 512 };
  const failure = failureOf(new CofferdamError('BLOCK_CORRUPT', 'first\n  second\n', details));
  expect(failure).toEqual({ code: 'BLOCK_CORRUPT', message: 'first second', ...details });
  expect(exitCodeOf(failure)).toBe(1);
});

test('what the operating system refused is not a bug of ours', async () => {
  const refused: unknown = await readFile('/nowhere/file').catch((error: unknown) => error);
  expect(failureOf(refused)).toEqual({
    code: 'DEVICE_IO',
    message: expect.stringContaining('/nowhere/file') as unknown,
  });
  const full = Object.assign(new Error('no space'), { code: 'ENOSPC', syscall: 'write' });
  expect(failureOf(full)).toEqual({ code: 'DEVICE_FULL', message: 'no space' });
});

test('anything else is, and asks for a report', () => {
  for (const bug of [new TypeError('x is not a function'), 'a string']) {
    const failure = failureOf(bug);
    expect(failure.code).toBe('INTERNAL');
    expect(failure.message).toContain('please report it');
    expect(exitCodeOf(failure)).toBe(1);
  }
});

test('a stack is only printed when asked for', async () => {
  const plain = await runCli(['list', '/nowhere/x']);
  expect(plain.stderr).toMatch(/^cofferdam: DEVICE_NOT_FOUND: .*\n$/);
  const debug = await runCli(['list', '/nowhere/x'], { env: { COFFERDAM_DEBUG: '1' } });
  expect(debug.stderr).toContain(plain.stderr);
  expect(debug.stderr).toMatch(/\n {4}at .*\.js:\d+/);
});
