import { describe, test } from 'vitest';
import type { Core, CoreName } from '#src/core/core';
import { loadCore } from '#src/core/load';
import { needs } from '../support/needs.js';

/** Declares a test that is handed the core under test. */
export type CoreTest = (name: string, body: (core: Core) => unknown) => void;

const names: readonly CoreName[] = ['native', 'portable'];

/** Runs one suite against both cores. */
export function describeCores(suite: (testCore: CoreTest, name: CoreName) => void): void {
  describe.each(names)('%s core', (name) => {
    const declare = name === 'native' ? needs('native core') : test;
    suite((title, body) => {
      declare(title, async () => {
        await body(await loadCore(name));
      });
    }, name);
  });
}
