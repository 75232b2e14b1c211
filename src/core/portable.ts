import { MiB } from '../runtime/sizes.js';
import type { Core } from './core.js';
import { checkAlgorithm } from './job.js';
import { PortableCopy } from './portable/copy.js';
import { blockGeometry } from './portable/geometry.js';
import { loadHashes } from './portable/hash.js';
import { PortableRestore } from './portable/restore.js';
import { writeBatches } from './portable/batch.js';
import { isZero } from './portable/zero.js';

/** The longest segment, which is also the largest block. */
const BUFFER_BYTES = 4 * MiB;

/** The core without native code: Node's file functions and WebAssembly. The same bytes, more slowly. */
export async function loadPortable(): Promise<Core> {
  const hash = await loadHashes();
  // One for all jobs, as a thread runs one at a time. It is made when it is first needed.
  let buffer: Uint8Array | undefined;
  const lendBuffer = (): Uint8Array => (buffer ??= new Uint8Array(BUFFER_BYTES));
  return {
    name: 'portable',
    hash(algorithm, bytes) {
      checkAlgorithm(algorithm);
      return hash(algorithm, bytes);
    },
    isZero,
    copy: (job) => new PortableCopy(job, hash, lendBuffer()).run(),
    restore: (job) => new PortableRestore(job, hash, lendBuffer()).run(),
    // Node has no file locks.
    lock: () => 'unsupported',
    blockGeometry,
    // Node has neither fallocate(2) nor SEEK_DATA.
    zeroRange: () => Promise.resolve(false),
    discard: () => Promise.resolve(false),
    dataRanges: (_fd, offsetBytes, lengthBytes) =>
      lengthBytes === 0 ? new Float64Array() : Float64Array.of(offsetBytes, offsetBytes + lengthBytes),
    // Node has no way to ask the page cache alone.
    readCached: () => {},
    write: writeBatches,
  };
}
