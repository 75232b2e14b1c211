import type { Mutant } from '../mutant.js';

const file = 'backup/cut.ts';

export const cutMutants: readonly Mutant[] = [
  {
    name: 'each barrier comes down at its own confirmation, not after the last',
    file,
    edits: [
      [
        'else this.#sources.set(server.id, confirmation.source);',
        "else this.#sources.set(server.id, confirmation.source);\n      if (fixedBy === 'snapshot') await this.release(server);",
      ],
      ['(this.#firstReleaseAtMs ?? 0) - this.#allConfirmedAtMs', '0'],
    ],
    killer: 'simulator',
  },
  {
    name: 'a server that does not vouch for its barrier is believed nevertheless',
    file,
    edits: [['if (answer.heldWithoutBreak) continue;', 'if (answer) continue;']],
    killer: { test: 'test/backup/cut.test.ts', name: 'when one lease ran out' },
  },
  {
    name: 'a release that nobody answers counts as a barrier that was held',
    file,
    edits: [
      [
        'heldWithoutBreak: false,\n        reason: `no answer',
        'heldWithoutBreak: true,\n        reason: `no answer',
      ],
    ],
    killer: { test: 'test/backup/cut.test.ts', name: 'when one answer to a release' },
  },
  {
    name: 'a cut that took longer than its budget is good',
    file,
    edits: [
      [
        'if (maxStallMs !== undefined && this.#stallMs() > maxStallMs) throw this.#stallError(maxStallMs);',
        '',
      ],
      ['    throwIfCancelled(this.signal);\n  }', '  }'],
    ],
    killer: { test: 'test/backup/cut.test.ts', name: 'fails a cut that was held too long' },
  },
  {
    name: 'a cut waits for a server that does not drain for as long as it takes',
    file,
    edits: [['() => this.#ended.abort(this.#stallError(maxStallMs))', '() => {}']],
    killer: { test: 'test/backup/cut.test.ts', name: 'does not drain in time' },
  },
  {
    name: 'every cut has the same epoch',
    file,
    edits: [['const epoch = 1 + statuses.reduce', 'const epoch = 1 + 0 * statuses.reduce']],
    killer: 'simulator',
  },
  {
    name: 'the epoch follows that of the first server only',
    file,
    edits: [
      [
        'Math.max(highest, status.epoch), 0)',
        'Math.max(highest, status.epoch * Number(status === statuses[0])), 0)',
      ],
    ],
    killer: { test: 'test/backup/cut.test.ts', name: 'takes an epoch higher' },
  },
  {
    name: 'what a late confirmation hands out is kept by nobody',
    file,
    edits: [
      ['if (this.#releasing.has(server.id)) await confirmation.source.close();\n      else this', 'this'],
    ],
    killer: { test: 'test/backup/cut.test.ts', name: 'confirms long after' },
  },
  {
    name: 'a cut that fails leaves its barriers to their leases',
    file,
    edits: [['      await cut.abandon();\n      throw error;', '      throw error;']],
    killer: { test: 'test/backup/cut.test.ts', name: 'when one server refuses it' },
  },
  {
    name: 'a cut that fails leaves the tracking of changes behind',
    file,
    edits: [['if (this.#isFinished || !this.#options.trackChanges) return;', 'if (this.#options) return;']],
    killer: { test: 'test/backup/cut.test.ts', name: 'cancelled after it was to track' },
  },
  {
    name: 'leases are not renewed',
    file,
    edits: [['if (maxStallMs === undefined) this.#renewInTime();', '']],
    killer: { test: 'test/backup/cut.test.ts', name: 'leases are renewed' },
  },
];
