import type { Mutant } from '../mutant.js';

export const serviceMutants: readonly Mutant[] = [
  {
    name: 'what is kept for a coordinator that died is kept for ever',
    file: 'service/leases.ts',
    edits: [['() => void this.end(id).catch(() => {})', '() => {}']],
    killer: 'simulator',
  },
  {
    name: 'what was given up can still be renewed',
    file: 'service/leases.ts',
    edits: [['    this.#leases.delete(id);\n', '']],
    killer: { test: 'test/service/remote-server.test.ts', name: 'service ends meanwhile' },
  },
  {
    name: 'a source of another process is intact for as long as it is leased',
    file: 'service/remote-cuts.ts',
    edits: [['await this.#sources.renew(lease).source.assertIntact();', 'this.#sources.renew(lease);']],
    killer: { test: 'test/service/remote-server.test.ts', name: 'a power cut breaks' },
  },
  {
    name: 'a source is handed out that is never given back',
    file: 'service/remote-cuts.ts',
    edits: [['      await source.close();\n    });', '    });']],
    killer: 'simulator',
  },
  {
    name: 'a source whose lease is unknown is taken as intact',
    file: 'service/remote-source.ts',
    edits: [
      [
        "if (!isCofferdamError(error, 'UNKNOWN_SNAPSHOT')) throw error;",
        "if (isCofferdamError(error, 'UNKNOWN_SNAPSHOT')) return;",
      ],
    ],
    killer: { test: 'test/service/remote-server.test.ts', name: 'restarts' },
  },
  {
    name: 'the lease of a source of another process is not renewed',
    file: 'service/remote-source.ts',
    edits: [['clock.nowMs() - this.#toldAtMs >= LEASE_MS / 3', 'false']],
    killer: { test: 'test/service/remote-server.test.ts', name: 'keeps what it was given' },
  },
  {
    name: 'the words of a bitmap arrive with their bytes turned round',
    file: 'service/remote-server.ts',
    edits: [['bytes.readInt32LE(4 * i)', 'bytes.readInt32BE(4 * i)']],
    killer: 'simulator',
  },
  {
    name: 'a coordinator that gave up on a cut keeps the tracking that comes of it',
    file: 'service/remote-server.ts',
    edits: [['tracking !== null && !this.#stopped.has(epoch)', 'tracking !== null']],
    killer: { test: 'test/service/remote-server.test.ts', name: 'before it was confirmed' },
  },
];
