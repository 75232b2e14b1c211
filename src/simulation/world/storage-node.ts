import type { BlockDevice } from '../../devices/block-device.js';
import type { NbdExport } from '../../nbd/server/exports.js';
import { formatNbdUri, parseNbdUri } from '../../nbd/uri.js';
import { CofferdamError } from '../../runtime/errors.js';
import type { CutRequest, CutTicket, ReleaseAnswer } from '../../servers/control.js';
import { StorageServer } from '../../servers/server.js';
import type { CutConfirmationBody } from '../../service/control-schema.js';
import type { CutCalls } from '../../service/cut-calls.js';
import { RemoteCuts } from '../../service/remote-cuts.js';
import type { CutWatch } from './cut-watch.js';
import { Disk } from './disk.js';
import type { Machine } from './machine.js';
import type { Surroundings } from './surroundings.js';
import type { SwarmConfig } from './swarm.js';

/** A storage server and its disk. What it knows of cuts is gone with the run of its machine. */
export class StorageNode {
  readonly id: string;
  readonly machine: Machine;
  readonly disk: Disk;
  readonly #config: SwarmConfig;
  readonly #watch: CutWatch;
  #server: StorageServer;
  #cuts: RemoteCuts;
  #exports = new Map<string, BlockDevice>();

  constructor(world: Surroundings, config: SwarmConfig, watch: CutWatch, id: string, machine: Machine) {
    this.id = id;
    this.machine = machine;
    this.#config = config;
    this.#watch = watch;
    this.disk = new Disk(world, `disk-${id}`, config.deviceBytes, config.serverDisk);
    [this.#server, this.#cuts] = this.#boot();
  }

  get server(): StorageServer {
    return this.#server;
  }

  /** The calls of coordinators in other processes, as they arrive. */
  get calls(): CutCalls {
    const cuts = this.#cuts;
    const watched: Pick<CutCalls, 'cut' | 'renew' | 'release'> = {
      cut: (id: string, request: CutRequest): Promise<CutConfirmationBody> =>
        this.#watch.cut(this, request, () => cuts.cut(id, request)),
      renew: (id: string, ticket: CutTicket, leaseMs: number): Promise<void> =>
        this.#watch.renew(this, leaseMs, () => cuts.renew(id, ticket, leaseMs)),
      release: (id: string, ticket: CutTicket): Promise<ReleaseAnswer> =>
        this.#watch.release(this, ticket, () => cuts.release(id, ticket)),
    };
    return {
      ...watched,
      status: (id) => cuts.status(id),
      stopTracking: (id, epoch) => cuts.stopTracking(id, epoch),
      renewTracking: (lease) => cuts.renewTracking(lease),
      assertIntact: (lease) => cuts.assertIntact(lease),
      markCopied: (lease, ranges) => cuts.markCopied(lease, ranges),
      closeSource: (lease) => cuts.closeSource(lease),
    };
  }

  /** @throws CofferdamError UNKNOWN_EXPORT */
  snapshotExport(uri: string): BlockDevice {
    const device = this.#exports.get(formatNbdUri(parseNbdUri(uri)));
    if (device) return device;
    throw new CofferdamError('UNKNOWN_EXPORT', `${this.machine.name} exports no ${uri}`, { device: this.id });
  }

  /** What the crash of the machine does to the disk. */
  async losePower(): Promise<void> {
    // Nobody waits for the old run: what it does it does in vain.
    void this.#server.close().catch(() => {});
    await this.disk.losePower();
  }

  /** Begins anew on the same disk, once the machine has started. */
  restart(): void {
    this.#exports = new Map();
    [this.#server, this.#cuts] = this.#boot();
  }

  #boot(): [StorageServer, RemoteCuts] {
    const { clock, present } = this.machine;
    const server = new StorageServer({
      id: this.id,
      device: this.disk.attachTo(present),
      cache: this.disk.cache,
      // Nothing may be spilled to a real file.
      preImages: { memoryBytes: this.#config.preImageBytes, spillBytes: 0 },
      clock,
    });
    const uriOf = (exportName: string): string =>
      formatNbdUri({ address: { kind: 'unix', path: `/${present.name}` }, exportName, tls: false });
    const exports = this.#exports;
    const exportBeside = async (_server: string, { name, device }: NbdExport): Promise<Disposable> => {
      exports.set(uriOf(name), device);
      return { [Symbol.dispose]: () => void exports.delete(uriOf(name)) };
    };
    const service = { cluster: { server: () => server }, exportBeside, uriOf };
    // Errors tell them, and each run of a seed must tell the same.
    let leases = 0;
    return [server, new RemoteCuts(service, clock, () => `lease-${++leases}-of-${present.name}`)];
  }
}
