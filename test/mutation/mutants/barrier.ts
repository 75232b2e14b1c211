import type { Mutant } from '../mutant.js';

const file = 'servers/barrier.ts';

export const barrierMutants: readonly Mutant[] = [
  {
    name: 'writes are admitted while the barrier is up',
    file,
    edits: [['    if (!this.#hold) {', '    if (requests > 0) {']],
    killer: 'simulator',
  },
  {
    name: 'what was parked is admitted in the reverse order',
    file,
    edits: [
      [
        'for (const request of this.#parked.splice(0)) {',
        'for (const request of this.#parked.splice(0).reverse()) {',
      ],
    ],
    killer: { test: 'test/servers/barrier.test.ts', name: 'admits what was parked' },
  },
  {
    name: 'a cut does not wait for the writes in flight',
    file,
    edits: [
      ['while (this.inFlight > 0 && this.#hold === hold) await', 'while (!hold.up) await'],
      [
        "invariant(hold.drained && this.#inFlight === 0, 'contents are fixed only when nothing is in flight');",
        '',
      ],
    ],
    killer: { test: 'test/servers/barrier.test.ts', name: 'a cut is confirmed only when' },
  },
  {
    name: 'writes that were parked are not counted as in flight',
    file,
    edits: [['      this.#inFlight += request.requests;\n', '']],
    killer: 'simulator',
  },
  {
    name: 'writes that were parked are counted as in flight only some time after they began',
    file,
    edits: [
      [
        '      this.#inFlight += request.requests;\n      request.begin();',
        '      request.begin();\n      void Promise.resolve().then(() => (this.#inFlight += request.requests));',
      ],
    ],
    killer: { test: 'test/servers/barrier.test.ts', name: 'overlooks no write' },
  },
  {
    name: 'an epoch that was seen before is taken once more',
    file,
    edits: [['epoch <= this.#epoch', 'epoch < this.#epoch']],
    killer: 'simulator',
  },
  {
    name: 'an older epoch is taken after a newer one',
    file,
    edits: [['!Number.isSafeInteger(epoch) || epoch <= this.#epoch', '!Number.isSafeInteger(epoch)']],
    killer: 'simulator',
  },
  {
    name: 'a cut that a newer one took over is vouched for',
    file,
    edits: [['this.#end(`a coordinator with the newer epoch ${epoch} took over`);', 'this.#end(undefined);']],
    killer: { test: 'test/servers/barrier.test.ts', name: 'a newer epoch takes over' },
  },
  {
    name: 'the lease of a barrier never begins',
    file,
    edits: [['    this.#lease(hold, leaseMs);\n    return hold;', '    return hold;']],
    killer: 'simulator',
  },
  {
    name: 'a cut whose lease ran out is vouched for',
    file,
    edits: [
      [
        'this.break(`its lease of ${leaseMs} ms ran out`);',
        '{\n        this.#end(undefined);\n        this.#lower();\n      }',
      ],
    ],
    killer: { test: 'test/servers/barrier.test.ts', name: 'a barrier that nobody releases' },
  },
  {
    name: 'a lease that runs out ends the cut and leaves the barrier up',
    file,
    edits: [
      [
        '    this.#end(reason);\n    this.#lower();\n  }\n\n  /** Breaks',
        '    this.#end(reason);\n  }\n\n  /** Breaks',
      ],
    ],
    killer: 'simulator',
  },
  {
    name: 'a renewal does not renew the lease',
    file,
    edits: [['    this.#lease(hold, leaseMs);\n  }', '    void leaseMs;\n  }']],
    killer: { test: 'test/servers/barrier.test.ts', name: 'a renewal counts' },
  },
  {
    name: 'a renewal lets the old lease run on',
    file,
    edits: [['    hold.lease?.[Symbol.dispose]();\n    hold.lease = this', '    hold.lease = this']],
    killer: { test: 'test/servers/barrier.test.ts', name: 'a renewal counts' },
  },
  {
    name: 'whoever has the same epoch may release the barrier of another',
    file,
    edits: [['a.epoch === b.epoch && a.coordinator === b.coordinator', 'a.epoch === b.epoch']],
    killer: 'simulator',
  },
  {
    name: 'a cut that was released before it was confirmed is vouched for',
    file,
    edits: [
      [
        "brokenBecause ?? (hold.confirmed ? undefined : 'it was released before it was confirmed')",
        'brokenBecause',
      ],
    ],
    killer: { test: 'test/servers/barrier.test.ts', name: 'of a cut that is not confirmed' },
  },
  {
    name: 'a cut that the server knows nothing of is vouched for',
    file,
    edits: [
      [
        'heldWithoutBreak: false,\n      reason: `server ${this.#name} knows',
        'heldWithoutBreak: true,\n      reason: `server ${this.#name} knows',
      ],
    ],
    killer: 'simulator',
  },
  {
    name: 'a release that is repeated is not vouched for',
    file,
    edits: [
      [
        'if (last && sameCut(last.ticket, ticket)) return last.answer;',
        'if (last && hold && sameCut(last.ticket, ticket)) return last.answer;',
      ],
    ],
    killer: { test: 'test/servers/barrier.test.ts', name: 'says that the barrier was held' },
  },
  {
    name: 'other threads do not see that the barrier is up',
    file,
    edits: [['    Atomics.store(this.word, 0, 1);\n', '']],
    killer: { test: 'test/servers/barrier.test.ts', name: 'the word that other threads see' },
  },
  {
    name: 'native changes go on while the barrier is up',
    file,
    edits: [['    this.gate.shutChanges(Shut.Barrier);\n', '']],
    killer: { test: 'test/servers/native-gate.test.ts', name: 'a drain waits for native changes' },
  },
  {
    name: 'a cut does not wait for the native changes in flight',
    file,
    edits: [['return this.#inFlight + this.gate.changesInside;', 'return this.#inFlight;']],
    killer: { test: 'test/servers/native-gate.test.ts', name: 'a drain waits for native changes' },
  },
  {
    name: 'native changes overtake what was parked',
    file,
    edits: [
      ['    this.gate.openChanges(Shut.Barrier);\n', ''],
      [
        '    Atomics.store(this.word, 0, 0);\n',
        '    Atomics.store(this.word, 0, 0);\n    this.gate.openChanges(Shut.Barrier);\n',
      ],
    ],
    killer: { test: 'test/servers/native-gate.test.ts', name: 'opened only after what was parked' },
  },
];
