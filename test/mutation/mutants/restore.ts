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
        'if (!part.includes(BlockState.Stored)) return await this.#makeZero(range);',
        'if (!part.includes(BlockState.Stored)) return;',
      ],
    ],
    killer: unreadAtFirst,
  },
  {
    name: 'a restore leaves what was there where the device is zero',
    file: 'backup/leaf-check.ts',
    edits: [['zeroTarget: target !== undefined && !target.isBlank', 'zeroTarget: false']],
    killer: { test: 'test/image/restore-room.test.ts', name: 'a restore onto a file without holes' },
  },
];
