import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // A machine with much else to do takes seconds for what takes none.
    expect: { poll: { timeout: 30_000 } },
    // Worker threads of the copy pool share file descriptors and memory with their test, so each test file
    // gets a process of its own.
    pool: 'forks',
    maxWorkers: 2,
    // The tests run on what users get: dist/ as Node itself loads it, not as vitest would rewrite it.
    server: { deps: { external: [/\/dist\//] } },
  },
});
