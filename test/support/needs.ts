import { accessSync, constants, readdirSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test, type TestFunction } from 'vitest';

/** `root`, `native core`, an absolute path that must exist (`/dev/loop-control`), or a command (`mke2fs`). */
export type Requirement = 'root' | 'native core' | (string & {});

export type ConditionalTest = (name: string, body: TestFunction, timeoutMs?: number) => void;

/**
 * Vitest's `test` where this machine has all that is asked for. Elsewhere the test is skipped and its name says why, or,
 * with CI set in the environment, it fails: in CI nothing may be left out.
 */
export function needs(...requirements: Requirement[]): ConditionalTest {
  const missing = requirements.map(whyMissing).filter((reason) => reason !== undefined);
  if (missing.length === 0) return test;
  const reason = missing.join(', ');
  if (process.env['CI']) {
    return (name) => {
      test(name, () => {
        throw new Error(`this test may not be skipped in CI: ${reason}`);
      });
    };
  }
  return (name, body, timeoutMs) => {
    test.skip(`${name} [skipped: ${reason}]`, body, timeoutMs);
  };
}

function whyMissing(requirement: Requirement): string | undefined {
  if (requirement === 'root') return process.getuid?.() === 0 ? undefined : 'needs root';
  if (requirement === 'native core')
    return nativeCoreBuilt() ? undefined : 'needs the native core to be built';
  if (requirement.startsWith('/')) {
    return allows(requirement, constants.F_OK) ? undefined : `needs ${requirement}`;
  }
  // Debian keeps the tools of administrators off the PATH of its users.
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin'];
  const found = folders.some((folder) => folder !== '' && allows(join(folder, requirement), constants.X_OK));
  return found ? undefined : `needs ${requirement}`;
}

function nativeCoreBuilt(): boolean {
  const directory = fileURLToPath(new URL('../../native/build', import.meta.url));
  const prefix = `cofferdam.${process.platform}-${process.arch}`;
  return (
    allows(directory, constants.F_OK) &&
    readdirSync(directory).some((name) => name.startsWith(prefix) && name.endsWith('.node'))
  );
}

function allows(path: string, mode: number): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch {
    return false;
  }
}
