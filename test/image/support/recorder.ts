import type { ImageStore } from '#src/backup/image/store';
import type { Random } from '#src/runtime/random';
import { MemoryStore } from './memory-store.js';

/** What reached the store, in order. */
export type Operation =
  | { kind: 'write'; offset: number; bytes: Uint8Array }
  | { kind: 'truncate'; size: number }
  | { kind: 'sync' };

/** An image in memory that notes every operation that changes it. */
export class Recorder extends MemoryStore {
  readonly operations: Operation[] = [];

  override async write(offset: number, bytes: Uint8Array): Promise<void> {
    this.operations.push({ kind: 'write', offset, bytes: bytes.slice() });
    await super.write(offset, bytes);
  }

  override async truncate(size: number): Promise<void> {
    this.operations.push({ kind: 'truncate', size });
    await super.truncate(size);
  }

  override async sync(): Promise<void> {
    this.operations.push({ kind: 'sync' });
    await super.sync();
  }
}

/** How the operations since the last sync fare in a crash. */
export interface Crash {
  /**
   * `kill`: the process dies and the system goes on, so all are there, of the last write at least some whole pages.
   * `power`: a random part is there.
   */
  kind: 'kill' | 'power';
  /** The unit in which a write is there or not, with `power`. */
  tearBytes: number;
  random: Random;
}

/** The store as it is found after a crash that came when the first `count` operations had been sent. */
export async function afterCrash(
  operations: readonly Operation[],
  count: number,
  crash: Crash,
): Promise<ImageStore & { bytes: Uint8Array }> {
  const store = new MemoryStore();
  const lastSync = operations.slice(0, count).findLastIndex((operation) => operation.kind === 'sync');
  for (const [i, operation] of operations.slice(0, count).entries()) {
    const isDurable = crash.kind === 'kill' || i < lastSync;
    if (operation.kind === 'truncate') {
      if (isDurable || crash.random.chance(0.5)) await store.truncate(operation.size);
    } else if (operation.kind === 'write') {
      const isCutShort = crash.kind === 'kill' && i === count - 1;
      if (isCutShort) await store.write(operation.offset, firstPages(operation.bytes, crash.random));
      else if (isDurable) await store.write(operation.offset, operation.bytes);
      else await writeInPart(store, operation.offset, operation.bytes, crash);
    }
  }
  return store;
}

function firstPages(bytes: Uint8Array, random: Random): Uint8Array {
  return random.chance(0.5)
    ? bytes
    : bytes.subarray(0, 4096 * random.below(Math.ceil(bytes.length / 4096) + 1));
}

/** Some of the pieces, each whole; sometimes none or all, which is what a disk does most. */
async function writeInPart(
  store: MemoryStore,
  offset: number,
  bytes: Uint8Array,
  crash: Crash,
): Promise<void> {
  const { random, tearBytes } = crash;
  const likelihood = random.pick([0, 0.5, 1]);
  for (let at = 0; at < bytes.length; at += tearBytes) {
    if (random.chance(likelihood)) await store.write(offset + at, bytes.subarray(at, at + tearBytes));
  }
}
