import type { Mutant } from '../mutant.js';

const writer = 'backup/image/generation-writer.ts';
const head = 'backup/image/head.ts';

export const imageMutants: readonly Mutant[] = [
  {
    name: 'the superblock is written before what it refers to is durable',
    file: writer,
    edits: [['    await this.#store.sync();\n    // 6.', '    // 6.']],
    killer: { test: 'test/image/crash.test.ts', name: 'a crash after any write' },
  },
  {
    name: 'a generation is promised before its superblock is durable',
    file: writer,
    edits: [['    await this.#store.sync();\n\n    this.#end', '\n    this.#end']],
    killer: 'simulator',
  },
  {
    name: 'the last nodes are written when the superblock is durable already',
    file: writer,
    edits: [
      ['    await this.#nodes.finish();\n', ''],
      ['    // 7. Sync', '    await this.#nodes.finish();\n    // 7. Sync'],
    ],
    killer: { test: 'test/image/crash.test.ts', name: 'a crash after any write' },
  },
  {
    name: 'the superblock is written over the newest one',
    file: writer,
    edits: [['SLOT_OFFSETS[slotOf(superblock.sequence)]', 'SLOT_OFFSETS[slotOf(previous.sequence)]']],
    killer: 'simulator',
  },
  {
    name: 'all superblocks share one slot',
    file: 'backup/image/superblock.ts',
    edits: [['return sequence % 2 === 1 ? 0 : 1;', 'return sequence > 0 ? 0 : 1;']],
    killer: { test: 'test/image/crash.test.ts', name: 'a crash after any write' },
  },
  {
    name: 'a torn superblock is believed',
    file: 'backup/image/superblock.ts',
    edits: [["    return damaged('it does not match its checksum');\n", '']],
    killer: { test: 'test/image/crash.test.ts', name: 'a crash after any write' },
  },
  {
    name: 'a generation begins in the last extent of the one before',
    file: writer,
    edits: [
      ['new FreeSpace(store, freeFromBytes)', 'new FreeSpace(store, freeFromBytes - ALLOCATION_BYTES)'],
    ],
    killer: 'simulator',
  },
  {
    name: 'the next generation of an open image is written over this one',
    file: 'backup/image/image.ts',
    edits: [['freeFromBytes: superblock.endBytes }', 'freeFromBytes: this.#head.freeFromBytes }']],
    killer: { test: 'test/image/crash.test.ts', name: 'a crash after any write' },
  },
  {
    name: 'the end of the space leaves out the catalog',
    file: writer,
    edits: [['endBytes: this.#space.endBytes,', 'endBytes: catalogPointer.offset,']],
    killer: 'simulator',
  },
  {
    name: 'the sequence number is not raised',
    file: writer,
    edits: [['sequence: previous.sequence + 1,', 'sequence: previous.sequence,']],
    killer: { test: 'test/image/crash.test.ts', name: 'a crash after any write' },
  },
  {
    name: 'the catalog forgets the oldest generations',
    file: writer,
    edits: [['[...catalog.generations, entry]', '[...catalog.generations.slice(-2), entry]']],
    killer: 'simulator',
  },
  {
    name: 'a generation that is given up takes the end of the one before with it',
    file: writer,
    edits: [['truncate?.(this.#space.startBytes)', 'truncate?.(this.#space.startBytes - ALLOCATION_BYTES)']],
    killer: { test: 'test/image/crash.test.ts', name: 'a crash after any write' },
  },
  {
    name: 'space is given back though a superblock may refer to it',
    file: writer,
    edits: [["if (this.#state === 'deciding') return this.#end({ kind: 'unknown' });", '']],
    killer: { test: 'test/image/image.test.ts', name: 'a failure of any write' },
  },
  {
    name: 'the older superblock wins',
    file: head,
    edits: [['b.sequence - a.sequence', 'a.sequence - b.sequence']],
    killer: 'simulator',
  },
  {
    name: 'free space begins where the older superblock says',
    file: head,
    edits: [['Math.max(...ends)', 'Math.min(...ends)']],
    killer: 'simulator',
  },
  {
    name: 'a superblock that cannot be read today is written over',
    file: head,
    edits: [
      [
        "const isDropping = !isNewest || slots.some((slot) => slot.kind === 'damaged' && slot.isUnreadable);",
        'const isDropping = false;',
      ],
    ],
    killer: { test: 'test/image/unreadable.test.ts', name: 'its newest catalog' },
  },
];
