import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

/**
 * What is kept in memory because of something that a call makes, in bytes: objects, and buffers outside of the heap but
 * for shared ones. What the call leaves behind as garbage does not count.
 */
export async function heldMemory<T>(make: () => Promise<T>): Promise<{ made: T; heldBytes: number }> {
  const beforeBytes = await settledBytes();
  const made = await make();
  return { made, heldBytes: Math.max(0, (await settledBytes()) - beforeBytes) };
}

async function settledBytes(): Promise<number> {
  // What one collection finds out to be garbage may be all that held something else.
  for (let i = 0; i < 3; i++) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    collectGarbage();
  }
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}
