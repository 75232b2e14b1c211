import type { NbdExport } from '../nbd/server/exports.js';
import type { Clock } from '../runtime/clock.js';
import { CofferdamError } from '../runtime/errors.js';
import type { Cluster } from '../servers/cluster.js';
import type { CutRequest, CutSource, CutTicket, ReleaseAnswer, ServerStatus } from '../servers/control.js';
import type { StorageServer } from '../servers/server.js';
import type { CutConfirmationBody } from './control-schema.js';
import type { CutCalls } from './cut-calls.js';
import { Leases } from './leases.js';

/** A source that was handed out: a coordinator in another process reads it over NBD. */
interface HandedOut {
  source: CutSource;
  blockCount: number;
  exported?: Disposable;
}

/** What it needs of the service. */
export interface CutsService {
  cluster: Pick<Cluster, 'server'>;
  exportBeside(server: string, entry: NbdExport): Promise<Disposable>;
  uriOf(exportName: string): string;
}

/**
 * Answers the calls of coordinators in other processes. What a cut fixes is exported for as long as the coordinator
 * renews its lease, and the changes since a cut are tracked no longer than that.
 */
export class RemoteCuts implements CutCalls {
  readonly #service: CutsService;
  readonly #sources: Leases<HandedOut>;
  readonly #trackers: Leases<undefined>;
  /** The lease of each tracker that runs, by server and epoch. */
  readonly #trackerLeases = new Map<string, string>();

  /** @param newLeaseId as {@link Leases} wants it. */
  constructor(service: CutsService, clock: Clock, newLeaseId?: () => string) {
    this.#service = service;
    this.#sources = new Leases(clock, newLeaseId);
    this.#trackers = new Leases(clock, newLeaseId);
  }

  async status(id: string): Promise<ServerStatus> {
    return this.#server(id).status();
  }

  async cut(id: string, request: CutRequest): Promise<CutConfirmationBody> {
    const server = this.#server(id);
    const { epoch, source } = await server.cut(request);
    // The changes that it collects are tracked no further.
    if (request.changedSinceEpoch !== undefined) await this.stopTracking(id, request.changedSinceEpoch);
    try {
      // A tracker without a lease would stay for ever if what follows fails.
      const tracking = request.trackChanges ? this.#track(server, epoch) : null;
      const { lease, uri } = await this.#handOut(server, source, request.blockSizeBytes);
      return { epoch, source: { lease, uri, selected: encodeWords(source.selected) }, tracking };
    } catch (error) {
      if (request.trackChanges) await this.stopTracking(id, epoch);
      await source.close();
      throw error;
    }
  }

  async renew(id: string, ticket: CutTicket, leaseMs: number): Promise<void> {
    await this.#server(id).renew(ticket, leaseMs);
  }

  async release(id: string, ticket: CutTicket): Promise<ReleaseAnswer> {
    return this.#server(id).release(ticket);
  }

  async stopTracking(id: string, epoch: number): Promise<void> {
    const server = this.#server(id);
    const lease = this.#trackerLeases.get(trackerKey(server, epoch));
    if (lease !== undefined) await this.#trackers.end(lease);
    else await server.stopTracking(epoch);
  }

  async renewTracking(lease: string): Promise<void> {
    this.#trackers.renew(lease);
  }

  async assertIntact(lease: string): Promise<void> {
    await this.#sources.renew(lease).source.assertIntact();
  }

  async markCopied(lease: string, ranges: readonly [first: number, count: number][]): Promise<void> {
    const { source, blockCount } = this.#sources.renew(lease);
    const outside = ranges.find(([first, count]) => first + count > blockCount);
    if (outside) {
      const [first, count] = outside;
      throw new CofferdamError(
        'BAD_ARGUMENT',
        `${source.device.name}: blocks ${first} to ${first + count - 1} were copied, it says, of ${blockCount}`,
      );
    }
    for (const [first, count] of ranges) source.markCopied(first, count);
  }

  closeSource(lease: string): Promise<void> {
    return this.#sources.end(lease);
  }

  /** Gives up everything: the service ends. */
  async close(): Promise<void> {
    await Promise.all([this.#sources.endAll(), this.#trackers.endAll()]);
  }

  #server(id: string): StorageServer {
    return this.#service.cluster.server(id);
  }

  async #handOut(
    server: StorageServer,
    source: CutSource,
    blockSizeBytes: number,
  ): Promise<{ lease: string; uri: string }> {
    const handedOut: HandedOut = { source, blockCount: Math.ceil(server.sizeBytes / blockSizeBytes) };
    // Granted before it is exported, so that the export can have the name of the lease.
    const lease = this.#sources.grant(handedOut, async () => {
      handedOut.exported?.[Symbol.dispose]();
      await source.close();
    });
    const name = `${server.id}@${lease}`;
    handedOut.exported = await this.#service.exportBeside(server.id, { name, device: source.device });
    if (this.#sources.has(lease)) return { lease, uri: this.#service.uriOf(name) };
    // The lease ended while the export was made, so nobody else ends that.
    handedOut.exported[Symbol.dispose]();
    throw new CofferdamError(
      'UNKNOWN_SNAPSHOT',
      `server ${server.id}: the service ended before the cut was handed out`,
      {
        device: server.id,
      },
    );
  }

  #track(server: StorageServer, epoch: number): string {
    const key = trackerKey(server, epoch);
    const lease = this.#trackers.grant(undefined, async () => {
      this.#trackerLeases.delete(key);
      await server.stopTracking(epoch);
    });
    this.#trackerLeases.set(key, lease);
    return lease;
  }
}

function trackerKey(server: StorageServer, epoch: number): string {
  return `${server.id} ${epoch}`;
}

/** The words of a bitmap, little-endian, in base64. */
function encodeWords(words: Int32Array | undefined): string | null {
  if (!words) return null;
  return Buffer.from(words.buffer, words.byteOffset, words.byteLength).toString('base64');
}
