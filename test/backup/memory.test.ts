import { describe, expect } from 'vitest';
import { GiB, MiB } from '#src/runtime/sizes';
import { temporaryDirectory } from '../support/directory.js';
import { needs } from '../support/needs.js';
import { makeSparseFile, runCliForMemory } from '../support/peak-memory.js';

const DATA_BYTES = 100 * MiB;

// The portable core reads holes like data, so it is given a smaller device: large enough to notice memory that grows
// with the device all the same.
describe.each([
  { core: 'native', sizeBytes: 1024 * GiB, requirements: ['native core'] },
  { core: 'portable', sizeBytes: 4 * GiB, requirements: [] },
] as const)('with the $core core', ({ core, sizeBytes, requirements }) => {
  needs(...requirements)(
    `a backup of a sparse device of ${sizeBytes / GiB} GiB stays under 200 MiB resident`,
    async () => {
      await using directory = temporaryDirectory();
      const device = directory.file('sparse.img');
      const image = directory.file('image.cofferdam');
      await makeSparseFile(device, sizeBytes, DATA_BYTES);
      const env = { COFFERDAM_CORE: core };
      const { exitCode, stdout, stderr, peakBytes } = await runCliForMemory(
        ['backup', '--to', image, '--device', device, '--json'],
        { env },
      );
      expect(exitCode, stderr).toBe(0);
      // It did copy what there is.
      expect(JSON.parse(stdout)).toMatchObject({
        statistics: { storedBytes: DATA_BYTES, zeroBytes: sizeBytes - DATA_BYTES },
      });
      expect(peakBytes).toBeLessThan(200 * MiB);
    },
  );
});
