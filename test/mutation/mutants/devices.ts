import type { Mutant } from '../mutant.js';

const copy = 'core/portable/copy.ts';
const cache = 'devices/volatile-cache.ts';

export const deviceMutants: readonly Mutant[] = [
  {
    name: 'the portable core does not look at `preserved` again after it read the device',
    file: copy,
    edits: [
      [
        'if (this.#preserved?.has(block) === true) this.#setState(block, BlockState.Preserved);\n      else this.#copied',
        'this.#copied',
      ],
    ],
    killer: { test: 'test/core/live-source.test.ts', name: 'portable' },
  },
  {
    name: 'the portable core marks blocks as copied before it reads them',
    file: copy,
    edits: [
      ['    if (!this.#settle(from, to)) return false;\n', ''],
      [
        '    const start = source.fetch',
        '    if (!this.#settle(from, to)) return false;\n    const start = source.fetch',
      ],
    ],
    killer: { test: 'test/core/live-source.test.ts', name: 'portable' },
  },
  {
    name: 'the portable core does not look at the barrier',
    file: copy,
    edits: [['    if (barrier && Atomics.load(barrier, 0) === 0) return false;\n', '']],
    killer: { test: 'test/core/live-source.test.ts', name: 'portable' },
  },
  {
    name: 'a flush forgets what was written while it ran',
    file: cache,
    edits: [
      [
        '      this.#log.dropThrough(last);\n    });',
        '      this.#log.dropThrough(this.#log.last);\n    });',
      ],
    ],
    killer: 'simulator',
  },
  {
    name: 'a flush is answered before the medium has what was written',
    file: cache,
    edits: [
      [
        '      await this.#writeBack(last, power);\n      await this.#inner.flush();',
        '      void last;\n      await this.#inner.flush();',
      ],
      ['      this.#log.dropThrough(last);\n    });', '    });'],
    ],
    killer: 'simulator',
  },
  {
    name: 'a read of a cached disk misses what a flush drops meanwhile',
    file: cache,
    edits: [
      [
        '      const { beginning } = this.#log;\n      await this.#inner.read(offsetBytes, into);',
        '      await this.#inner.read(offsetBytes, into);\n      const { beginning } = this.#log;',
      ],
    ],
    killer: { test: 'test/devices/volatile-cache.test.ts', name: 'slower than a flush' },
  },
];
