import type { Clock } from '../runtime/clock.js';
import type { CutSource, ServerControl } from '../servers/control.js';
import { GroupCut } from './cut.js';
import type { NodePointer } from './image/layout.js';
import type { Consistency, CutCertificate, ServerCertificate } from './image/record.js';

/** What copies one device's contents as of a cut. */
export interface DeviceCopier {
  /**
   * Resolves to the root of the device's block map once all that the source selects is copied and the source has vouched
   * for it.
   *
   * @param base root of an earlier copy, from which the blocks that are not selected are taken. Absent: there is none.
   */
  copy(
    server: ServerControl,
    source: CutSource,
    signal: AbortSignal,
    base?: NodePointer | null,
  ): Promise<NodePointer | null>;
}

/** What a strategy works with. It says when the barriers go up and down; how the bytes are copied is the copier's. */
export interface StrategyRun {
  servers: readonly ServerControl[];
  copier: DeviceCopier;
  clock: Clock;
  blockSizeBytes: number;
  /** See {@link BackupOptions.maxStallMs}. */
  maxStallMs: number | undefined;
  signal: AbortSignal;
}

/** What a strategy reached. */
export interface StrategyResult {
  consistency: Consistency;
  cut: CutCertificate;
  /** Root of each device's block map, by ID. */
  roots: Map<string, NodePointer | null>;
}

/** Bound on the stall of a cut that lasts only an instant, where the caller gives none. */
const DEFAULT_MAX_STALL_MS = 1000;

/**
 * All barriers for an instant; copy-before-write keeps the contents while they are copied. A client's write waits
 * milliseconds, whatever the devices' size.
 */
export async function snapshotStrategy(run: StrategyRun): Promise<StrategyResult> {
  const { sources, certificate } = await cutToSnapshots(run);
  try {
    const roots = new Map<string, NodePointer | null>();
    for (const server of run.servers) {
      roots.set(server.id, await copyFull(run, server, take(sources, server.id), run.signal));
    }
    return { consistency: 'group', cut: certificate, roots };
  } finally {
    await closeAll(sources);
  }
}

/** All barriers; each comes down as soon as its own device is copied. No extra space; writes wait for the copy. */
export async function holdStrategy(run: StrategyRun): Promise<StrategyResult> {
  await using cut = await GroupCut.raise(run.servers, {
    ...cutOptions(run),
    fixedBy: 'barrier',
    maxStallMs: run.maxStallMs,
  });
  const roots = new Map<string, NodePointer | null>();
  for (const server of run.servers) {
    roots.set(server.id, await copyFull(run, server, cut.source(server.id), cut.signal));
    await cut.release(server);
  }
  return { consistency: 'group', cut: await cut.finish(), roots };
}

/**
 * One device at a time under its own barrier, then one cut over all for the blocks that changed since. The closing cut is
 * what makes the group consistent: the first pass only leaves less to copy after it.
 */
export async function rollingStrategy(run: StrategyRun): Promise<StrategyResult> {
  const firstPass = await copyOneByOne(run, true);
  try {
    const { sources, certificate } = await cutToSnapshots(run, firstPass.epochs);
    try {
      const roots = new Map<string, NodePointer | null>();
      for (const server of run.servers) {
        const base = firstPass.roots.get(server.id) ?? null;
        roots.set(server.id, await run.copier.copy(server, take(sources, server.id), run.signal, base));
      }
      return { consistency: 'group', cut: { ...certificate, firstPass: serversOf(firstPass) }, roots };
    } finally {
      await closeAll(sources);
    }
  } finally {
    await stopTracking(run, firstPass.epochs);
  }
}

/** The textbook's procedure, without the closing cut: each device alone is consistent, the group is not. */
export async function rollingStrategyWithoutClosingCut(run: StrategyRun): Promise<StrategyResult> {
  const pass = await copyOneByOne(run, false);
  const { roots, certificates } = pass;
  return {
    consistency: 'device',
    cut: {
      servers: serversOf(pass),
      // No instant had all the barriers up.
      group: {
        stallMs: Math.max(...certificates.map((certificate) => certificate.group.stallMs)),
        overlapMs: null,
      },
    },
    roots,
  };
}

interface FirstPass {
  roots: Map<string, NodePointer | null>;
  /** The epoch of each server's own cut, since which its changes are tracked. */
  epochs: Map<string, number>;
  certificates: CutCertificate[];
}

function serversOf({ certificates }: FirstPass): ServerCertificate[] {
  return certificates.flatMap((certificate) => certificate.servers);
}

/** Raise one barrier, copy, lower, next. */
async function copyOneByOne(run: StrategyRun, trackChanges: boolean): Promise<FirstPass> {
  const pass: FirstPass = { roots: new Map(), epochs: new Map(), certificates: [] };
  try {
    for (const server of run.servers) {
      await using cut = await GroupCut.raise([server], {
        ...cutOptions(run),
        fixedBy: 'barrier',
        trackChanges,
      });
      pass.epochs.set(server.id, cut.ticket.epoch);
      pass.roots.set(server.id, await copyFull(run, server, cut.source(server.id), cut.signal));
      pass.certificates.push(await cut.finish());
    }
    return pass;
  } catch (error) {
    await stopTracking(run, pass.epochs);
    throw error;
  }
}

async function cutToSnapshots(
  run: StrategyRun,
  changedSinceEpochs?: ReadonlyMap<string, number>,
): Promise<{ sources: Map<string, CutSource>; certificate: CutCertificate }> {
  await using cut = await GroupCut.raise(run.servers, {
    ...cutOptions(run),
    fixedBy: 'snapshot',
    maxStallMs: run.maxStallMs ?? DEFAULT_MAX_STALL_MS,
    ...(changedSinceEpochs ? { changedSinceEpochs } : {}),
  });
  const certificate = await cut.finish();
  return { certificate, sources: cut.takeSources() };
}

function cutOptions(run: StrategyRun): {
  clock: Clock;
  blockSizeBytes: number;
  signal: AbortSignal;
} {
  const { clock, blockSizeBytes, signal } = run;
  return { clock, blockSizeBytes, signal };
}

/** Copies a whole device and closes its source, so that its pre-images are given up at once. */
async function copyFull(
  run: StrategyRun,
  server: ServerControl,
  source: CutSource,
  signal: AbortSignal,
): Promise<NodePointer | null> {
  const root = await run.copier.copy(server, source, signal);
  await source.close();
  return root;
}

function take(sources: Map<string, CutSource>, id: string): CutSource {
  const source = sources.get(id);
  if (!source) throw new Error(`the cut has no source for ${id}`);
  return source;
}

async function closeAll(sources: Map<string, CutSource>): Promise<void> {
  await Promise.allSettled([...sources.values()].map((source) => source.close()));
}

async function stopTracking(run: StrategyRun, epochs: ReadonlyMap<string, number>): Promise<void> {
  const stops = run.servers.map(async (server) => {
    const epoch = epochs.get(server.id);
    if (epoch !== undefined) await server.stopTracking(epoch);
  });
  await Promise.allSettled(stops);
}
