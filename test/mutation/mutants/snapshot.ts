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
        '      if (this.preserved.has(block)) {\n        const target',
        '      if (before.shift()) {\n        const target',
      ],
    ],
    killer: 'simulator',
  },
  {
    name: '`preserved` is set after the write, not before',
    file,
    edits: [
      [
        '      this.preserved.add(block);\n',
        '      const later = this.#live.read(offsetBytes, new Uint8Array(bytes.length));\n      void later.then(() => this.preserved.add(block));\n',
      ],
      [
        '        await this.#saveOnce(block, end);',
        '        await this.#saveOnce(block, end);\n        block = end;',
      ],
    ],
    killer: 'simulator',
  },
  {
    name: '`preserved` is set before the pre-image is in the store',
    file,
    edits: [
      [
        '      await this.#preImages.put',
        '      this.preserved.add(block);\n      await this.#preImages.put',
      ],
      ['      this.preserved.add(block);\n    }', '    }'],
    ],
    killer: { test: 'test/servers/snapshot.test.ts', name: 'readable at every moment' },
  },
  {
    name: 'a pre-image is saved anew by every write to its block',
    file,
    edits: [
      ['return !this.copied.has(block) && !this.preserved.has(block);', 'return !this.copied.has(block);'],
      [
        '        await this.#saveOnce(block, end);',
        '        await this.#saveOnce(block, end);\n        block = end;',
      ],
    ],
    killer: 'simulator',
  },
  {
    name: 'a write does not wait for a pre-image that another write is saving',
    file,
    edits: [['        await saving;\n      } else if', '        block++;\n      } else if']],
    killer: 'simulator',
  },
  {
    name: 'copy-before-write saves only the first block of a write',
    file,
    edits: [
      [
        'Math.floor((offsetBytes + lengthBytes - 1) / this.blockSizeBytes)',
        'Math.floor(offsetBytes / this.blockSizeBytes)',
      ],
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
    name: 'a snapshot that was closed stays with its server',
    file,
    edits: [['    this.#onClose();\n', '']],
    killer: 'simulator',
  },
];
