import { createBLAKE3 } from 'hash-wasm';
import xxhash from 'xxhash-wasm';
import type { HashAlgorithm } from '../core.js';

export type HashFunction = (algorithm: HashAlgorithm, bytes: Uint8Array) => Uint8Array;

/** The hashes in WebAssembly. Either module copies its input into its own memory, so shared memory is fine. */
export async function loadHashes(): Promise<HashFunction> {
  const [{ h64Raw }, blake3] = await Promise.all([xxhash(), createBLAKE3()]);
  return (algorithm, bytes) => {
    if (algorithm === 'blake3') return blake3.init().update(bytes).digest('binary');
    const hash = new Uint8Array(8);
    new DataView(hash.buffer).setBigUint64(0, h64Raw(bytes));
    return hash;
  };
}
