import type { Clock } from '../runtime/clock.js';
import type { CutRequest, CutSource } from '../servers/control.js';
import type { StorageServer } from '../servers/server.js';
import type { CutConfirmationBody } from './control-schema.js';
import { Leases } from './leases.js';
import type { ClusterService } from './service.js';

/** A source that was handed out: a coordinator in another process reads it over NBD. */
interface HandedOut {
  source: CutSource;
  exported?: Disposable;
}

/**
 * Cuts for coordinators in other processes. What a cut fixes is exported over NBD for as long as the coordinator renews
 * its lease, and the changes since a cut are tracked no longer than that.
 */
export class RemoteCuts {
  readonly #service: ClusterService;
  readonly #sources: Leases<HandedOut>;
  readonly #trackers: Leases<undefined>;
  /** The lease of each tracker that runs, by server and epoch. */
  readonly #trackerLeases = new Map<string, string>();

  constructor(service: ClusterService, clock: Clock) {
    this.#service = service;
    this.#sources = new Leases(clock);
    this.#trackers = new Leases(clock);
  }

  /** @throws CofferdamError as {@link StorageServer.cut} */
  async cut(server: StorageServer, request: CutRequest): Promise<CutConfirmationBody> {
    const { epoch, source } = await server.cut(request);
    // The changes that it collects are tracked no further.
    if (request.changedSinceEpoch !== undefined) await this.stopTracking(server, request.changedSinceEpoch);
    try {
      const { lease, uri } = await this.#handOut(server, source);
      const tracking = request.trackChanges ? this.#track(server, epoch) : null;
      return { epoch, source: { lease, uri, selected: encodeWords(source.selected) }, tracking };
    } catch (error) {
      await source.close();
      throw error;
    }
  }

  /** @throws CofferdamError UNKNOWN_SNAPSHOT */
  source(lease: string): CutSource {
    return this.#sources.renew(lease).source;
  }

  /** @throws CofferdamError UNKNOWN_SNAPSHOT */
  renewTracking(lease: string): void {
    this.#trackers.renew(lease);
  }

  closeSource(lease: string): Promise<void> {
    return this.#sources.end(lease);
  }

  async stopTracking(server: StorageServer, epoch: number): Promise<void> {
    const lease = this.#trackerLeases.get(trackerKey(server, epoch));
    if (lease !== undefined) await this.#trackers.end(lease);
    else await server.stopTracking(epoch);
  }

  /** Gives up everything: the service ends. */
  async close(): Promise<void> {
    await Promise.all([this.#sources.endAll(), this.#trackers.endAll()]);
  }

  async #handOut(server: StorageServer, source: CutSource): Promise<{ lease: string; uri: string }> {
    const handedOut: HandedOut = { source };
    // Granted before it is exported, so that the export can have the name of the lease.
    const lease = this.#sources.grant(handedOut, async () => {
      handedOut.exported?.[Symbol.dispose]();
      await source.close();
    });
    const name = `${server.id}@${lease}`;
    handedOut.exported = await this.#service.exportBeside(server.id, { name, device: source.device });
    return { lease, uri: this.#service.uriOf(name) };
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
