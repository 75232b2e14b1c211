import type { StrategyRun } from '#src/backup/strategies';
import type { BlockDevice } from '#src/devices/block-device';
import { ReadOnlyDevice } from '#src/devices/read-only';
import { WriteBarrier } from '#src/servers/barrier';
import type { CutConfirmation, CutSource, ServerControl } from '#src/servers/control';
import { HeldSource } from '#src/servers/held-source';
import { Snapshot } from '#src/servers/snapshot';
import { SmallDevice } from './small-device.js';
import { BLOCK } from './small-world.js';

/*
 * Coordinators and servers that do not quite do what they should. Each must be found out: an explorer that finds nothing
 * wrong with these finds nothing.
 */

const ticket = { epoch: 1, coordinator: 'wrong' };

/** Releases each server as soon as that one has confirmed. */
export async function releaseEachAtOnce(run: StrategyRun): Promise<void> {
  const sources = run.servers.map(async (server) => {
    const { source } = await cutOne(server);
    await server.release(ticket);
    return source;
  });
  await copyAll(run, await Promise.all(sources));
}

/** Releases all when all but the last have confirmed. */
export async function releaseBeforeTheLast(run: StrategyRun): Promise<void> {
  const cuts = run.servers.map(cutOne);
  await Promise.all(cuts.slice(0, -1));
  // The last server is released too, but not before it has confirmed: else it would only say that it was not held.
  const releases = run.servers.map(async (server, index) => {
    if (index === cuts.length - 1) await cuts[index];
    await server.release(ticket);
  });
  const confirmations = await Promise.all(cuts);
  await Promise.all(releases);
  await copyAll(
    run,
    confirmations.map(({ source }) => source),
  );
}

/** Cuts one server after the other and holds on to none. The snapshots are all copied at the end. */
export async function snapshotOneByOne(run: StrategyRun): Promise<void> {
  const sources: CutSource[] = [];
  for (const server of run.servers) {
    sources.push((await cutOne(server)).source);
    await server.release(ticket);
  }
  await copyAll(run, sources);
}

function cutOne(server: ServerControl): Promise<CutConfirmation> {
  return server.cut({ ...ticket, leaseMs: 1000, fixedBy: 'snapshot', blockSizeBytes: BLOCK });
}

async function copyAll(run: StrategyRun, sources: readonly CutSource[]): Promise<void> {
  for (const [index, server] of run.servers.entries()) {
    const source = sources[index];
    if (!source) throw new Error(`${server.id} has no source`);
    await run.copier.copy(server, source, run.signal);
    await source.close();
  }
}

/** Vouches for its barrier whatever became of it. */
export function vouchForAnything(server: ServerControl): ServerControl {
  return {
    ...controlOf(server),
    release: async (ticket) => ({ ...(await server.release(ticket)), heldWithoutBreak: true }),
  };
}

/** Looks whether a block is preserved before it reads the device, and not again afterwards. */
export function lookOnlyBefore(server: ServerControl, live: BlockDevice): ServerControl {
  const read = async (source: Snapshot, offsetBytes: number, into: Uint8Array): Promise<void> => {
    if (source.preserved.has(Math.floor(offsetBytes / BLOCK))) await source.read(offsetBytes, into);
    else await live.read(offsetBytes, into);
  };
  return {
    ...controlOf(server),
    cut: async (request) => {
      const { epoch, source } = await server.cut(request);
      if (!(source instanceof Snapshot)) throw new Error('only snapshots are read so');
      const device = new ReadOnlyDevice('snapshot', server.sizeBytes, BLOCK, {
        read: (offsetBytes, into) => read(source, offsetBytes, into),
        allocation: (offsetBytes, lengthBytes) => source.allocation(offsetBytes, lengthBytes),
      });
      const hasty: CutSource = {
        device,
        native: undefined,
        selected: source.selected,
        markCopied: (firstBlock, blockCount) => source.markCopied(firstBlock, blockCount),
        assertIntact: () => source.assertIntact(),
        close: () => source.close(),
        [Symbol.asyncDispose]: () => source.close(),
      };
      return { epoch, source: hasty };
    },
  };
}

function controlOf(server: ServerControl): ServerControl {
  return {
    id: server.id,
    sizeBytes: server.sizeBytes,
    identities: server.identities,
    status: () => server.status(),
    cut: (request) => server.cut(request),
    renew: (ticket, leaseMs) => server.renew(ticket, leaseMs),
    stopTracking: (epoch) => server.stopTracking(epoch),
    release: (ticket) => server.release(ticket),
  };
}

/** Fixes the contents while writes that were let in before are still under way. */
export function doNotDrain(): Disposable {
  return replaced(WriteBarrier.prototype, {
    drained: () => Promise.resolve(),
    confirm: (hold) => void (hold.confirmed = true),
  });
}

/** Lets every write in, barrier or not. */
export function parkNothing(): Disposable {
  return replaced(WriteBarrier.prototype, {
    admit: (begin) => begin(),
    confirm: (hold) => void (hold.confirmed = true),
  });
}

/** Writes without waiting until the pre-image is saved. */
export function doNotWaitForPreImages(): Disposable {
  const { preserve } = Snapshot.prototype;
  return replaced(Snapshot.prototype, {
    async preserve(this: Snapshot, offsetBytes: number, lengthBytes: number) {
      void preserve.call(this, offsetBytes, lengthBytes);
    },
  });
}

/** Copies what is under a barrier without looking whether it is still up. */
export function doNotLookAtTheBarrier(): Disposable {
  return replaced(HeldSource.prototype, { assertIntact: () => Promise.resolve() });
}

/** Refuses the writes that it ought to park. */
export function refuseInsteadOfParking(): Disposable {
  const { admit } = WriteBarrier.prototype;
  return replaced(WriteBarrier.prototype, {
    admit(this: WriteBarrier, begin: () => Promise<void>, requests?: number) {
      return this.up ? Promise.reject(new Error('busy')) : admit.call(this, begin, requests);
    },
  });
}

/** Parks writes and never lets them go on. */
export function parkForEver(): Disposable {
  const { admit } = WriteBarrier.prototype;
  return replaced(WriteBarrier.prototype, {
    admit(this: WriteBarrier, begin: () => Promise<void>, requests?: number) {
      return this.up ? new Promise<void>(() => {}) : admit.call(this, begin, requests);
    },
  });
}

/** Answers writes that never reach the device. */
export function loseWrites(): Disposable {
  return replaced(SmallDevice.prototype, { write: () => Promise.resolve() });
}

/** Goes on keeping pre-images that nobody will ask for any more. */
export function keepSnapshots(): Disposable {
  return replaced(Snapshot.prototype, { close: () => Promise.resolve() });
}

/** Gives objects of a class other methods until it is disposed of. */
function replaced<T extends object>(prototype: T, methods: Partial<T>): Disposable {
  const names = Object.keys(methods) as (keyof T)[];
  const own = new Map(names.map((name) => [name, prototype[name]]));
  Object.assign(prototype, methods);
  return { [Symbol.dispose]: () => void Object.assign(prototype, Object.fromEntries(own)) };
}
