import type { Mutant } from '../mutant.js';

const strategies = 'backup/strategies.ts';

export const backupMutants: readonly Mutant[] = [
  {
    name: '`hold` lowers the barrier of a device before it is copied',
    file: strategies,
    edits: [
      ['    await cut.release(server);\n', ''],
      [
        '    roots.set(server.id, await copyFull(run, server, cut.source',
        '    await cut.release(server);\n    roots.set(server.id, await copyFull(run, server, cut.source',
      ],
    ],
    killer: 'simulator',
  },
  {
    name: '`rolling` takes the first pass for the result of the closing cut',
    file: strategies,
    edits: [
      [
        'roots.set(server.id, await run.copier.copy(server, take(sources, server.id), run.signal, base));',
        'roots.set(server.id, base);',
      ],
    ],
    killer: 'simulator',
  },
  {
    name: '`rolling` notes changes only from when the first copy is done',
    file: strategies,
    edits: [
      ['        trackChanges,\n', ''],
      [
        '      pass.certificates.push(await cut.finish());\n',
        "      pass.certificates.push(await cut.finish());\n      await using late = await GroupCut.raise([server], { ...cutOptions(run), fixedBy: 'barrier', trackChanges });\n      pass.epochs.set(server.id, late.ticket.epoch);\n      await late.finish();\n",
      ],
    ],
    killer: 'simulator',
  },
  {
    name: '`rolling` without its closing cut says that the group is consistent',
    file: strategies,
    edits: [["consistency: 'device',", "consistency: 'group',"]],
    killer: { test: 'test/backup/consistency-portable.test.ts', name: 'without its closing cut' },
  },
  {
    name: 'a copy does not ask in the end whether its source was intact',
    file: 'backup/copier.ts',
    edits: [['  await source.assertIntact();\n', '']],
    killer: { test: 'test/backup/failures.test.ts', name: 'not vouched for in the end' },
  },
  {
    name: 'blocks are given up before they are read',
    file: 'backup/leaf-copy.ts',
    edits: [
      ['      this.#source.markCopied(this.#firstBlock + start, end - start);\n', ''],
      [
        '      const bytes = await this.#read(start, end);',
        '      this.#source.markCopied(this.#firstBlock + start, end - start);\n      const bytes = await this.#read(start, end);',
      ],
    ],
    killer: 'simulator',
  },
  {
    name: 'pre-images are left out of the copy',
    file: 'backup/leaf-copy.ts',
    edits: [['await this.#pull(from, to, (i) => states[i] === BlockState.Preserved);', 'void states;']],
    killer: { test: 'test/backup/consistency-portable.test.ts', name: "'snapshot', 8 writers" },
  },
  {
    name: 'the block beside the one that changed is copied',
    file: 'backup/leaf-copy.ts',
    edits: [['(1 << (block & 31))', '(1 << ((block + 1) & 31))']],
    killer: 'simulator',
  },
];
