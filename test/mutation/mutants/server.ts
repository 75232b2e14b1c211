import type { Mutant } from '../mutant.js';

const file = 'servers/server.ts';

export const serverMutants: readonly Mutant[] = [
  {
    name: 'writes go on without copy-before-write',
    file,
    edits: [
      ['await snapshot.preserve(offsetBytes, lengthBytes);', 'void [snapshot, offsetBytes, lengthBytes];'],
    ],
    killer: 'simulator',
  },
  {
    name: 'the old content is saved when the device has changed already',
    file,
    edits: [
      [
        '        // 4. The device changes, unless the power went out meanwhile.\n        this.#assertUp();\n        await apply();\n',
        '',
      ],
      [
        '        // 2. Copy-before-write',
        '        this.#assertUp();\n        await apply();\n        // 2. Copy-before-write',
      ],
    ],
    killer: 'simulator',
  },
  {
    name: 'a write does not wait until the old content is saved',
    file,
    edits: [
      [
        'await snapshot.preserve(offsetBytes, lengthBytes);',
        'void snapshot.preserve(offsetBytes, lengthBytes);',
      ],
    ],
    killer: 'simulator',
  },
  {
    name: 'only the oldest of several snapshots is kept by copy-before-write',
    file,
    edits: [
      [
        'for (const snapshot of this.#snapshots) {',
        'for (const snapshot of [...this.#snapshots].slice(0, 1)) {',
      ],
    ],
    killer: 'simulator',
  },
  {
    name: 'changes since a cut are not noted',
    file,
    edits: [['tracker.mark(offsetBytes, lengthBytes);', 'void [tracker, offsetBytes, lengthBytes];']],
    killer: 'simulator',
  },
  {
    name: 'a change is noted only when the device took it',
    file,
    edits: [
      [
        '        // 4. The device changes, unless the power went out meanwhile.\n        this.#assertUp();\n        await apply();\n',
        '',
      ],
      [
        '        // 3. Change tracking',
        '        this.#assertUp();\n        await apply();\n        // 3. Change tracking',
      ],
    ],
    killer: { test: 'test/servers/snapshot.test.ts', name: 'counts a write that failed half way' },
  },
  {
    name: 'changes are collected before the writes in flight have finished',
    file,
    edits: [
      [
        '    await this.#barrier.drained(hold);',
        '    const selected = this.#changedSince(request);\n    await this.#barrier.drained(hold);',
      ],
      ['this.#fixContents(request, hold);', 'this.#fixContents(request, hold, selected);'],
      [
        '#fixContents(request: CutRequest, hold: Hold): CutSource {',
        '#fixContents(request, hold, selected) {',
      ],
      [
        '    const selected = this.#changedSince(request);\n    if (request.fixedBy',
        '    if (request.fixedBy',
      ],
    ],
    killer: { test: 'test/servers/snapshot.test.ts', name: 'waits for its pre-image when' },
  },
  {
    name: 'a write counts as finished before the device has it',
    file,
    edits: [
      ['        this.#barrier.finish(ranges.length);\n', ''],
      ['        await apply();', '        this.#barrier.finish(ranges.length);\n        await apply();'],
    ],
    killer: { test: 'test/servers/barrier.test.ts', name: 'a cut is confirmed only when' },
  },
  {
    name: 'writes that are sent together count as one in flight',
    file,
    edits: [['    }, ranges.length);', '    }, 1);']],
    killer: { test: 'test/servers/batches.test.ts', name: 'parked together' },
  },
  {
    name: 'a power cut leaves snapshots as they were',
    file,
    edits: [["for (const snapshot of this.#snapshots) snapshot.break('the server lost its power');", '']],
    killer: { test: 'test/servers/snapshot.test.ts', name: 'breaks with the power' },
  },
  {
    name: 'changes are still said to be known after a power cut',
    file,
    edits: [['    this.#trackers.clear();\n', '']],
    killer: { test: 'test/servers/snapshot.test.ts', name: 'is gone after it was collected' },
  },
  {
    name: 'the power comes back while the device is still busy with what was sent before',
    file,
    edits: [['      await this.#barrier.idle();\n', '']],
    killer: { test: 'test/servers/barrier.test.ts', name: 'refuses what is parked or in flight' },
  },
  {
    name: 'a write that a power cut came between is answered as if nothing had been',
    file,
    edits: [
      [
        '        this.#assertSameBoot(boot);\n      }\n      // 7.',
        '        void boot;\n      }\n      // 7.',
      ],
    ],
    killer: { test: 'test/servers/barrier.test.ts', name: 'refuses what is parked or in flight' },
  },
  {
    name: 'a trim passes the barrier',
    file: 'servers/served-device.ts',
    edits: [
      [
        'await this.#gate.change([{ offsetBytes, lengthBytes }], () =>\n      this.#device.trim',
        'await this.#gate.answer(() =>\n      this.#device.trim',
      ],
    ],
    killer: { test: 'test/servers/barrier.test.ts', name: 'writes, trims and write-zeroes are parked' },
  },
  {
    name: 'write-zeroes passes the barrier',
    file: 'servers/served-device.ts',
    edits: [
      [
        'await this.#gate.change([{ offsetBytes, lengthBytes }], () =>\n      this.#device.writeZeroes',
        'await this.#gate.answer(() =>\n      this.#device.writeZeroes',
      ],
    ],
    killer: { test: 'test/servers/barrier.test.ts', name: 'writes, trims and write-zeroes are parked' },
  },
  {
    name: 'writes that are sent together pass the barrier',
    file: 'servers/served-device.ts',
    edits: [
      [
        'await this.#gate.change(batches.flatMap(rangesOf), async () =>',
        'await this.#gate.answer(async () =>',
      ],
    ],
    killer: { test: 'test/servers/batches.test.ts', name: 'parked together' },
  },
  {
    name: 'a source held by the barrier does not look at it after a read',
    file: 'servers/held-source.ts',
    edits: [['        await this.assertIntact();\n', '']],
    killer: { test: 'test/service/remote-server.test.ts', name: 'under the barrier alone' },
  },
  {
    name: 'a source held by the barrier is intact whatever became of it',
    file: 'servers/held-source.ts',
    edits: [['if (this.#hold.up) return', 'if (this.#hold) return']],
    killer: { test: 'test/servers/barrier.test.ts', name: 'a newer epoch aborts' },
  },
  {
    name: 'native changes go on past a snapshot',
    file,
    edits: [
      [
        '    // 4. Shut the gate for those who watch from now on, in the same turn, so while the barrier is up.\n    this.#watch();\n',
        '',
      ],
    ],
    killer: { test: 'test/servers/native-gate.test.ts', name: 'for as long as it is watched' },
  },
  {
    name: 'the power comes back while native requests are past the gate',
    file,
    edits: [['      await this.#barrier.gate.idle();\n      await this.#cache', '      await this.#cache']],
    killer: { test: 'test/servers/native-gate.test.ts', name: 'a power cut waits for native requests' },
  },
  {
    name: 'a device is closed while native requests are past the gate',
    file,
    edits: [['    await this.#barrier.gate.idle();\n    await this.#device', '    await this.#device']],
    killer: { test: 'test/servers/native-gate.test.ts', name: 'closing waits for native requests' },
  },
  {
    name: 'a native thread is told too late that its connection is cut off',
    file: 'nbd/server/native-stream.ts',
    edits: [
      [
        '    this.#connection.cut();\n    // The thread',
        '    setTimeout(() => this.#connection.cut(), 20);\n    // The thread',
      ],
    ],
    killer: { test: 'test/nbd/native-path.test.ts', name: 'what was sent before a power cut' },
  },
  {
    name: 'native changes go on past a snapshot that only JavaScript preserves',
    file,
    edits: [['snapshots.some(({ isNative }) => !isNative)', 'snapshots.length < 0']],
    killer: { test: 'test/servers/native-gate.test.ts', name: 'for as long as it is watched' },
  },
  {
    name: 'native threads learn of a snapshot when the gate is open again',
    file,
    edits: [
      [
        '    this.#barrier.confirm(hold);\n',
        '    this.#barrier.confirm(hold);\n    this.#barrier.gate.openChanges(1);\n',
      ],
    ],
    killer: { test: 'test/servers/native-gate.test.ts', name: 'before the gate is opened' },
  },
  {
    name: 'the thread of a connection is not told of snapshots',
    file: 'nbd/server/native-stream.ts',
    edits: [['watch: path.watch, ', '']],
    killer: { test: 'test/nbd/native-snapshots.test.ts', name: 'no write takes the way' },
  },
];
