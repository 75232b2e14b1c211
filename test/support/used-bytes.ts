import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** What this process holds on to, in JavaScript and in buffers, after what it does not was collected. */
export function usedBytes(): number {
  collect();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

/** What this process takes of the machine, also what the native core allocates, after what it does not need was collected. */
export function residentBytes(): number {
  collect();
  return process.memoryUsage.rss();
}
