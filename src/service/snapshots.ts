import { GroupCut } from '../backup/cut.js';
import type { Clock } from '../runtime/clock.js';
import { CofferdamError, messageOf } from '../runtime/errors.js';
import type { CutSource } from '../servers/control.js';
import type { SnapshotStatusBody } from './control-schema.js';
import type { ClusterService } from './service.js';

export interface SnapshotOptions {
  name: string;
  /** IDs; default all. */
  servers?: readonly string[] | undefined;
  blockSizeBytes: number;
  maxStallMs: number;
}

interface Snapshot {
  status: Omit<SnapshotStatusBody, 'broken'>;
  sources: ReadonlyMap<string, CutSource>;
  exports: Disposable[];
}

/** Crash-consistent snapshots that somebody asked for by name. They live, and take space, until they are dropped. */
export class Snapshots {
  readonly #service: ClusterService;
  readonly #clock: Clock;
  readonly #snapshots = new Map<string, Snapshot>();
  readonly #beingMade = new Set<string>();

  constructor(service: ClusterService, clock: Clock) {
    this.#service = service;
    this.#clock = clock;
  }

  async list(): Promise<SnapshotStatusBody[]> {
    return await Promise.all([...this.#snapshots.values()].map(statusOf));
  }

  /**
   * Cuts some servers at one instant and exports each read-only as SERVER@NAME.
   *
   * @throws CofferdamError TARGET_EXISTS if there is one of this name; UNKNOWN_DEVICE; what a cut throws.
   */
  async create({
    name,
    servers: ids,
    blockSizeBytes,
    maxStallMs,
  }: SnapshotOptions): Promise<SnapshotStatusBody> {
    if (this.#snapshots.has(name) || this.#beingMade.has(name)) {
      throw new CofferdamError('TARGET_EXISTS', `there is a snapshot ${name} already; drop it first`);
    }
    this.#beingMade.add(name);
    try {
      const { cluster } = this.#service;
      const servers = ids ? ids.map((id) => cluster.server(id)) : cluster.servers;
      await using cut = await GroupCut.raise(servers, {
        clock: this.#clock,
        fixedBy: 'snapshot',
        blockSizeBytes,
        maxStallMs,
      });
      await cut.finish();
      return await this.#exportAll(name, cut.takeSources());
    } finally {
      this.#beingMade.delete(name);
    }
  }

  /** @throws CofferdamError UNKNOWN_SNAPSHOT */
  async drop(name: string): Promise<void> {
    const snapshot = this.#snapshots.get(name);
    if (!snapshot) throw new CofferdamError('UNKNOWN_SNAPSHOT', `there is no snapshot ${name}`);
    this.#snapshots.delete(name);
    await end(snapshot);
  }

  async close(): Promise<void> {
    await Promise.allSettled([...this.#snapshots.keys()].map((name) => this.drop(name)));
  }

  /** Only one that is exported whole can be dropped: otherwise exports that are still to come would stay for ever. */
  async #exportAll(name: string, sources: ReadonlyMap<string, CutSource>): Promise<SnapshotStatusBody> {
    const snapshot: Snapshot = { status: { name, exports: [] }, sources, exports: [] };
    try {
      for (const [server, { device }] of sources) {
        const entry = { name: `${server}@${name}`, device, description: `${server} as of snapshot ${name}` };
        snapshot.exports.push(await this.#service.exportBeside(server, entry));
        const uri = this.#service.uriOf(entry.name);
        snapshot.status.exports.push({ server, uri, sizeBytes: device.sizeBytes });
      }
    } catch (error) {
      await end(snapshot);
      throw error;
    }
    this.#snapshots.set(name, snapshot);
    return await statusOf(snapshot);
  }
}

/** A power cut breaks a snapshot, and so does a limit on what it may keep: of all servers, if of one. */
async function statusOf({ status, sources }: Snapshot): Promise<SnapshotStatusBody> {
  const checks = await Promise.allSettled([...sources.values()].map((source) => source.assertIntact()));
  const broken = checks.find((check) => check.status === 'rejected');
  return { ...status, broken: broken ? messageOf(broken.reason) : null };
}

async function end({ exports, sources }: Snapshot): Promise<void> {
  for (const exported of exports) exported[Symbol.dispose]();
  await Promise.all([...sources.values()].map((source) => source.close()));
}
