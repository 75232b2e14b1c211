// Copies 1 MiB to a new file, in a process whose files may not grow that large, and prints the error as JSON.
import { openSync } from 'node:fs';
import { loadCore } from '../../dist/core/load.js';

const [name, path = ''] = process.argv.slice(2);
const core = await loadCore(name === 'native' ? 'native' : 'portable');
const blockCount = 16;
const blockSizeBytes = 65536;
try {
  core.copy({
    source: { bytes: new Uint8Array(blockCount * blockSizeBytes).fill(1) },
    sink: { fd: openSync(path, 'w') },
    deviceSizeBytes: blockCount * blockSizeBytes,
    blockSizeBytes,
    firstBlock: 0,
    blockCount,
    algorithm: 'xxh64',
    cursor: new BigInt64Array(1),
    capacityBytes: 2 ** 40,
    cancel: new Int32Array(1),
    progress: new BigInt64Array(2),
    states: new Uint8Array(blockCount),
    offsets: new Float64Array(blockCount),
    hashes: new Uint8Array(blockCount * 8),
  });
  console.log('{}');
} catch (error) {
  console.log(JSON.stringify(error));
}
