import type { Mutant } from '../mutant.js';

const file = 'servers/snapshot.ts';

export const snapshotMutants: readonly Mutant[] = [
  {
    name: 'a reader looks for a pre-image before it reads the device, and not after',
    file,
    edits: [
      [
        '    await this.#live.read(offsetBytes, into);\n    const end = offsetBytes + into.length;',
        '    const end = offsetBytes + into.length;\n    const before = [...this.#blocksOf(offsetBytes, end)].map(({ block }) => this.preserved.has(block));\n    await this.#live.read(offsetBytes, into);',
      ],
      [
        '      if (!this.preserved.has(block)) continue;\n      for',
        '      if (!before.shift()) continue;\n      for',
      ],
    ],
    killer: 'simulator',
  },
  {
    name: '`preserved` is set after the write, not before',
    file,
    edits: [
      [
        '      await this.#preImages.put(unit, this.#partOf(bytes, unit - first));\n      this.#markSaved(unit);',
        '      await this.#preImages.put(unit, this.#partOf(bytes, unit - first));\n      const later = this.#live.read(offsetBytes, new Uint8Array(bytes.length));\n      void later.then(() => this.#markSaved(unit));',
      ],
      [
        '        if (!this.#saveNow(unit, end)) await this.#saveOnce(unit, end);',
        '        await this.#saveOnce(unit, end);\n        unit = end;',
      ],
    ],
    killer: 'simulator',
  },
  {
    name: '`preserved` is set before the pre-image is in the store',
    file,
    edits: [
      ['      await this.#preImages.put', '      this.#markSaved(unit);\n      await this.#preImages.put'],
      [
        'await this.#preImages.put(unit, this.#partOf(bytes, unit - first));\n      this.#markSaved(unit);',
        'await this.#preImages.put(unit, this.#partOf(bytes, unit - first));',
      ],
    ],
    killer: { test: 'test/servers/snapshot.test.ts', name: 'readable at every moment' },
  },
  {
    name: 'a pre-image is saved anew by every write to its place',
    file,
    edits: [
      [
        'return !this.copied.has(this.#blockOf(unit)) && !this.#saved.has(unit);',
        'return !this.copied.has(this.#blockOf(unit));',
      ],
      ['      if (this.#saved.has(unit)) continue;\n', ''],
      [
        '        if (!this.#saveNow(unit, end)) await this.#saveOnce(unit, end);',
        '        await this.#saveOnce(unit, end);\n        unit = end;',
      ],
    ],
    killer: 'simulator',
  },
  {
    name: 'a write does not wait for a pre-image that another write is saving',
    file,
    edits: [['        await saving;\n      } else if', '        unit++;\n      } else if']],
    killer: 'simulator',
  },
  {
    name: 'copy-before-write saves only where a write begins',
    file,
    edits: [
      ['Math.floor((offsetBytes + lengthBytes - 1) / UNIT_BYTES)', 'Math.floor(offsetBytes / UNIT_BYTES)'],
    ],
    killer: 'simulator',
  },
  {
    name: 'a snapshot out of room for pre-images still vouches for itself',
    file,
    edits: [
      [
        'return this.#broken ? Promise.reject(this.#broken) : Promise.resolve();',
        'return Promise.resolve();',
      ],
    ],
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
    name: 'what the page cache has is saved only after the write',
    file,
    edits: [
      [
        '        if (!this.#saveNow(unit, end)) await this.#saveOnce(unit, end);',
        '        void setImmediate().then(() => this.#saveNow(unit, end));\n        unit = end;',
      ],
    ],
    killer: { test: 'test/servers/snapshot.test.ts', name: 'on a file, in the same turn' },
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
];
