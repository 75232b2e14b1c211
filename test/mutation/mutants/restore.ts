import type { Killer, Mutant } from '../mutant.js';

const unreadAtFirst: Killer = {
  test: 'test/image/restore-room.test.ts',
  name: 'the map could not be read at first',
};

export const restoreMutants: readonly Mutant[] = [
  {
    name: 'a restore writes before it has made zero what will be zero',
    file: 'backup/restore.ts',
    edits: [['[[BlockState.Zero], [BlockState.Stored]]', '[[BlockState.Stored], [BlockState.Zero]]']],
    killer: unreadAtFirst,
  },
  {
    name: 'a restore leaves what was there where the map could not be read at first',
    file: 'backup/restore.ts',
    edits: [
      [
        '!part.includes(BlockState.Stored)) return await this.#makeZero(range);',
        '!part.includes(BlockState.Stored)) return;',
      ],
    ],
    killer: unreadAtFirst,
  },
  {
    name: 'a restore makes zero what it then says that it cannot restore',
    file: 'backup/restore.ts',
    edits: [['if (this.#options.skipBad && !part', 'if (!part']],
    killer: {
      test: 'test/image/restore-room.test.ts',
      name: 'leaves it as it was if nothing can be restored',
    },
  },
  {
    name: 'a restore leaves what was there where the device is zero',
    file: 'backup/leaf-check.ts',
    edits: [['zeroTarget: target !== undefined && !target.isBlank', 'zeroTarget: false']],
    killer: { test: 'test/image/restore-room.test.ts', name: 'a restore onto a file without holes' },
  },
];
