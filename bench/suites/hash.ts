import type { Core } from '#src/core/core';
import { KiB, MiB } from '#src/runtime/sizes';
import { randomBytes } from '../../test/support/bytes.js';
import { contest, timesOf, type Contestant } from '../contest.js';
import { availableCores } from '../cores.js';
import { median, ratio } from '../ratio.js';
import type { Cell, Report } from '../report.js';
import type { Suite, SuiteContext } from '../suite.js';

/** What one run works through, however long its buffers are. It fits into the processor's cache. */
const AREA_BYTES = MiB;

const operations: { name: string; area: Uint8Array; apply: (core: Core, buffer: Uint8Array) => unknown }[] = [
  { name: 'xxh64', area: randomBytes(AREA_BYTES, 1), apply: (core, buffer) => core.hash('xxh64', buffer) },
  { name: 'blake3', area: randomBytes(AREA_BYTES, 1), apply: (core, buffer) => core.hash('blake3', buffer) },
  // Zeros are the most work: the test may stop at the first byte that is none.
  { name: 'zero test', area: new Uint8Array(AREA_BYTES), apply: (core, buffer) => core.isZero(buffer) },
];

export const hash: Suite = { name: 'hash', summary: 'hashes and zero test by buffer size, in memory', run };

async function run({ smoke, note }: SuiteContext): Promise<Report> {
  const cores = await availableCores();
  const rows: Cell[][] = [];
  for (const bufferBytes of smoke ? [64 * KiB] : [4 * KiB, 64 * KiB, MiB]) {
    for (const { name, area, apply } of operations) {
      note(`${name}, ${bufferBytes} bytes`);
      const contestants = cores.map((core): Contestant => {
        return {
          name: core.name,
          async: false,
          run: () => {
            for (let start = 0; start < AREA_BYTES; start += bufferBytes) {
              apply(core, area.subarray(start, start + bufferBytes));
            }
          },
        };
      });
      const times = await contest(contestants, smoke ? { rounds: 1 } : { rounds: 7, timeMs: 50 });
      const native = times.get('native');
      const portable = timesOf(times, 'portable');
      const bytesPerSecond = (ms: number): number => (AREA_BYTES / ms) * 1000;
      rows.push([
        name,
        bufferBytes,
        native ? bytesPerSecond(median(native)) : null,
        bytesPerSecond(median(portable)),
        native ? ratio(portable, native) : null,
      ]);
    }
  }
  return {
    tables: [
      {
        title: 'One thread, called from JavaScript',
        columns: [
          { name: 'operation', unit: 'text' },
          { name: 'buffer', unit: 'bytes' },
          { name: 'native', unit: 'bytes/s' },
          { name: 'portable', unit: 'bytes/s' },
          { name: 'portable time / native time', unit: 'ratio' },
        ],
        rows,
      },
    ],
    notes: [],
  };
}
