import { expect } from 'vitest';
import type { ProcessResult } from '../support/process.js';

/** The one JSON document that is the whole of stdout. */
export function document(result: ProcessResult): Record<string, unknown> {
  const value: unknown = JSON.parse(result.stdout);
  expect(value).toBeTypeOf('object');
  return value as Record<string, unknown>;
}

/** The program did what it was asked to and had nothing to say beside the result. */
export function expectDone(result: ProcessResult): void {
  expect(result.stderr).toBe('');
  expect(result.exitCode).toBe(0);
}

/** The program failed with one line on stderr, which is returned, and with nothing else there. */
export function expectFailure(result: ProcessResult, code: string, exitCode: 1 | 2 = 1): string {
  const lines = result.stderr.split('\n');
  expect(lines, result.stderr).toHaveLength(2);
  expect(lines[0]).toMatch(new RegExp(`^cofferdam: ${code}: \\S.*[^.\\s]$`));
  expect(lines[1]).toBe('');
  expect(result.exitCode).toBe(exitCode);
  return lines[0] ?? '';
}
