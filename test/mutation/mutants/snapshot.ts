import type { Mutant } from '../mutant.js';

const file = 'servers/snapshot.ts';
const unitSaver = 'servers/unit-saver.ts';
const nativeSaver = 'servers/native-saver.ts';

export const snapshotMutants: readonly Mutant[] = [
  {
    name: 'a reader looks for a pre-image before it reads the device, and not after',
    file: unitSaver,
    edits: [
      [
        '    await this.#live.read(offsetBytes, into);\n    const end = offsetBytes + into.length;',
        '    const end = offsetBytes + into.length;\n    const before = new Set<number>();\n    for (let unit = Math.floor(offsetBytes / UNIT_BYTES); unit * UNIT_BYTES < end; unit++)\n      if (this.#saved.has(unit)) before.add(unit);\n    await this.#live.read(offsetBytes, into);',
      ],
      [
        'if (this.#saved.has(unit)) await this.#preImages.get',
        'if (before.has(unit)) await this.#preImages.get',
      ],
    ],
    killer: 'simulator',
  },
  {
    name: '`preserved` is set after the write, not before',
    file: unitSaver,
    edits: [
      [
        '      this.#markSaved(unit);\n    }\n  }',
        '      const later = this.#live.read(offsetBytes, new Uint8Array(bytes.length));\n      void later.then(() => this.#markSaved(unit));\n    }\n  }',
      ],
      ['await this.#saveOnce(unit, end);', 'await this.#saveOnce(unit, end);\n        unit = end;'],
    ],
    killer: 'simulator',
  },
  {
    name: '`preserved` is set before the pre-image is in the store',
    file: unitSaver,
    edits: [
      ['      await this.#preImages.put', '      this.#markSaved(unit);\n      await this.#preImages.put'],
      ['      this.#markSaved(unit);\n    }\n  }', '    }\n  }'],
    ],
    killer: { test: 'test/servers/snapshot.test.ts', name: 'readable at every moment' },
  },
  {
    name: 'a pre-image is saved anew by every write to its place',
    file: unitSaver,
    edits: [
      [
        'return !this.#marks.copied.has(this.#blockOf(unit)) && !this.#saved.has(unit);',
        'return !this.#marks.copied.has(this.#blockOf(unit));',
      ],
      ['await this.#saveOnce(unit, end);', 'await this.#saveOnce(unit, end);\n        unit = end;'],
    ],
    killer: 'simulator',
  },
  {
    name: 'a write does not wait for a pre-image that another write is saving',
    file: unitSaver,
    edits: [['        await saving;\n      } else if', '        unit++;\n      } else if']],
    killer: 'simulator',
  },
  {
    name: 'copy-before-write saves only where a write begins',
    file: unitSaver,
    edits: [
      ['Math.floor((offsetBytes + lengthBytes - 1) / UNIT_BYTES)', 'Math.floor(offsetBytes / UNIT_BYTES)'],
    ],
    killer: 'simulator',
  },
  {
    name: 'a snapshot out of room for pre-images still vouches for itself',
    file,
    edits: [['if (this.#broken === undefined) return;', 'return;']],
    killer: 'simulator',
  },
  {
    name: 'one block too many is taken as copied',
    file,
    edits: [
      [
        'this.copied.addRange(firstBlock, firstBlock + blockCount);',
        'this.copied.addRange(firstBlock, Math.min(firstBlock + blockCount + 1, this.copied.bitCount));',
      ],
    ],
    killer: 'simulator',
  },
  {
    name: 'a block that was trimmed after its pre-image was saved is taken for zeros',
    file,
    edits: [["this.preserved.has(block) ? 'data' : 'zero'", "'zero'"]],
    killer: { test: 'test/servers/snapshot.test.ts', name: 'trimmed after its pre-image' },
  },
  {
    name: 'a unit that was written to the spill file is looked for in the place of another',
    file: 'servers/spill-file.ts',
    edits: [
      ['else this.#inFile.set(unit, slot);', 'else this.#inFile.set(unit, slot === 0 ? 1 : slot - 1);'],
    ],
    killer: { test: 'test/servers/snapshot.test.ts', name: 'thousands of pre-images' },
  },
  {
    name: 'a snapshot that was closed stays with its server',
    file,
    edits: [['    this.#onClose();\n', '']],
    killer: 'simulator',
  },
  {
    name: 'what can be saved at once is saved only after the write',
    file: nativeSaver,
    edits: [
      [
        'if (this.#takesTurn(lengthBytes) && this.#preImages.preserveNow(offsetBytes, lengthBytes)) return;',
        'if (lengthBytes > 0) return void setImmediate(() => this.#preImages.preserveNow(offsetBytes, lengthBytes));',
      ],
    ],
    killer: { test: 'test/servers/snapshot.test.ts', name: 'on a file, in the same turn' },
  },
  {
    name: 'a write does not wait until what cannot be saved at once is saved',
    file: nativeSaver,
    edits: [['await this.#wait(this.#preImages.preserve(', 'void this.#wait(this.#preImages.preserve(']],
    killer: { test: 'test/servers/snapshot.test.ts', name: 'a file.*breaks at its limit' },
  },
  {
    name: 'a reader looks for what native threads have saved before it reads the device',
    file: nativeSaver,
    edits: [
      [
        '    await this.#live.read(offsetBytes, into);\n    await this.#wait(this.#preImages.restore(offsetBytes, into));',
        '    await this.#wait(this.#preImages.restore(offsetBytes, into));\n    await this.#live.read(offsetBytes, into);',
      ],
    ],
    killer: { test: 'test/nbd/native-snapshots.test.ts', name: 'no write takes the way' },
  },
  {
    name: 'native threads still look at a snapshot that was closed',
    file: nativeSaver,
    edits: [['    await this.#preImages.close();\n', '']],
    killer: { test: 'test/nbd/native-snapshots.test.ts', name: 'no write takes the way' },
  },
  {
    name: 'a snapshot that broke goes on saving',
    file,
    edits: [['    this.#saver.end();\n', '']],
    killer: { test: 'test/nbd/native-snapshots.test.ts', name: 'at the limit' },
  },
];
