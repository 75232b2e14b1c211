import type { BlockDevice } from '../devices/block-device.js';
import { NbdDevice } from '../nbd/client/device.js';
import type { NbdExport } from '../nbd/server/exports.js';
import { formatNbdUri, type NbdUri } from '../nbd/uri.js';
import { realClock, type Clock } from '../runtime/clock.js';
import { CofferdamError } from '../runtime/errors.js';
import { formatControlAddress, type ControlAddress } from '../servers/control-address.js';
import { openServers, type Cluster } from '../servers/cluster.js';
import type { ClusterConfig, ServerConfig, VolumeConfig } from '../servers/cluster-config.js';
import { Listeners } from './listeners.js';
import { openVolume } from './volumes.js';

export interface ServiceOptions {
  /** IDs of the servers and volumes that this process serves; the others are served by other processes. Default: all. */
  only?: readonly string[] | undefined;
  clock?: Clock | undefined;
}

/** What a service exports, besides snapshots. */
export interface ServedExport {
  name: string;
  kind: 'server' | 'volume';
  sizeBytes: number;
  uri: string;
}

/**
 * The servers and volumes of a cluster that one process serves, exported over NBD.
 *
 * Invariants:
 * 1. What is exported is open: exports are added after their devices were opened and end before they are closed.
 * 2. When {@link close} has succeeded, everything that a client was told was written is on its medium.
 */
export class ClusterService implements AsyncDisposable {
  readonly cluster: Cluster;
  readonly #listeners: Listeners;
  readonly #config: ClusterConfig;
  readonly #controlAddress: ControlAddress | undefined;
  readonly #exports: ServedExport[] = [];
  readonly #volumes = new Map<string, { device: BlockDevice; config: VolumeConfig }>();
  #closing: Promise<void> | undefined;

  private constructor(
    config: ClusterConfig,
    controlAddress: ControlAddress | undefined,
    cluster: Cluster,
    listeners: Listeners,
  ) {
    this.#config = config;
    this.#controlAddress = controlAddress;
    this.cluster = cluster;
    this.#listeners = listeners;
  }

  /**
   * @throws CofferdamError UNKNOWN_DEVICE for an ID in `only` that there is not; BAD_CONFIG if the servers are to be
   * controlled at several addresses, so by several processes; DEVICE_BUSY and what else opening
   * devices, connecting to other processes, and listening throw. Whatever was opened before is closed again.
   */
  static async start(config: ClusterConfig, options: ServiceOptions = {}): Promise<ClusterService> {
    const { only, clock = realClock } = options;
    const wanted = selection(config, only);
    const controlAddress = commonControl(config, wanted.servers);
    const cluster = await openServers(wanted.servers, clock);
    const service = new ClusterService(config, controlAddress, cluster, new Listeners(clock));
    try {
      for (const server of wanted.servers) await service.#exportServer(server);
      for (const volume of wanted.volumes) await service.#exportVolume(volume);
      return service;
    } catch (error) {
      await service.close();
      throw error;
    }
  }

  /** Servers first, then volumes, each in the order of the configuration. */
  get exports(): readonly ServedExport[] {
    return this.#exports;
  }

  /** Where this process is to be controlled; undefined if it has no servers, only volumes over those of others. */
  get controlAddress(): ControlAddress | undefined {
    return this.#controlAddress;
  }

  /** Exports something that belongs to a server, such as a snapshot, where that server itself is exported. */
  exportBeside(serverId: string, entry: NbdExport): Promise<Disposable> {
    return this.#listeners.add(this.#listenOf(this.#serverConfig(serverId)), entry);
  }

  /** What to give to a client of an export. */
  uriOf(exportName: string): string {
    return this.#listeners.uriOf(exportName);
  }

  /**
   * Cuts the power of these servers at one instant. Clients of their exports, and of striped volumes across them, are
   * disconnected; they may connect again when this resolves.
   *
   * @throws CofferdamError UNKNOWN_DEVICE
   */
  async powerCut(ids: readonly string[], options: { seed: number }): Promise<void> {
    const servers = ids.map((id) => this.cluster.server(id));
    const cuts = servers.map((server, index) => server.powerCut({ seed: options.seed + index }));
    for (const id of ids) this.#listeners.disconnect(id);
    for (const [name, { config }] of this.#volumes) {
      const isStriped = config.kind === 'striped';
      if (isStriped && config.of.some((id) => ids.includes(id))) this.#listeners.disconnect(name);
    }
    await Promise.all(cuts);
  }

  /** Answers the requests in flight, makes everything durable, and closes. May be repeated. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    const volumes = [...this.#volumes.values()].map(({ device }) => device);
    try {
      // 1. No coordinator holds up any longer what is to be answered.
      for (const server of this.cluster.servers) server.breakCut('the service ended');
      // 2. Nobody writes any more, and whoever wrote was answered.
      await this.#listeners.close();
      // 3. What was answered becomes durable.
      const all = [...volumes, ...this.cluster.servers.map(({ client }) => client)];
      await Promise.all(all.map((device) => device.flush()));
    } finally {
      // 4. Only then is it closed.
      await Promise.all(volumes.map((volume) => volume.close()));
      await this.cluster.close();
    }
  }

  async #exportServer(config: ServerConfig): Promise<void> {
    const { id } = config;
    const { client } = this.cluster.server(id);
    await this.#listeners.add(this.#listenOf(config), { name: id, device: client });
    this.#note(id, 'server', client);
  }

  async #exportVolume(config: VolumeConfig): Promise<void> {
    const { id, kind, of } = config;
    const device = await openVolume(config, (member) => this.#openMember(member));
    this.#volumes.set(id, { device, config });
    const description = `${kind} over ${of.join(', ')}`;
    await this.#listeners.add(this.#listenOf(config), { name: id, device, description });
    this.#note(id, 'volume', device);
  }

  /** A server of this process through a client of its own, since a volume closes its members; another over NBD. */
  async #openMember(id: string): Promise<BlockDevice> {
    if (this.cluster.has(id)) return this.cluster.server(id).newClient();
    const at = this.#listenOf(this.#serverConfig(id));
    return await NbdDevice.open(formatNbdUri({ ...at, exportName: id }));
  }

  #note(name: string, kind: ServedExport['kind'], { sizeBytes }: BlockDevice): void {
    this.#exports.push({ name, kind, sizeBytes, uri: this.uriOf(name) });
  }

  #listenOf(entry: { listen?: NbdUri | undefined }): NbdUri {
    return entry.listen ?? this.#config.listen;
  }

  #serverConfig(id: string): ServerConfig {
    const config = this.#config.servers.find((server) => server.id === id);
    if (config) return config;
    throw new CofferdamError('UNKNOWN_DEVICE', `there is no server ${id}`, { device: id });
  }
}

function selection(
  { servers, volumes }: ClusterConfig,
  only: readonly string[] | undefined,
): { servers: readonly ServerConfig[]; volumes: readonly VolumeConfig[] } {
  if (!only) return { servers, volumes };
  const ids = [...servers, ...volumes].map(({ id }) => id);
  const unknown = only.find((id) => !ids.includes(id));
  if (unknown !== undefined) {
    throw new CofferdamError(
      'UNKNOWN_DEVICE',
      `there is neither a server nor a volume ${unknown}; there are ${ids.join(', ')}`,
      { device: unknown },
    );
  }
  const isWanted = ({ id }: { id: string }): boolean => only.includes(id);
  return { servers: servers.filter(isWanted), volumes: volumes.filter(isWanted) };
}

/** @throws CofferdamError BAD_CONFIG */
function commonControl(config: ClusterConfig, servers: readonly ServerConfig[]): ControlAddress | undefined {
  const [first, ...others] = servers.map(({ id, control = config.control }) => ({ id, control }));
  const address = first && formatControlAddress(first.control);
  const other = others.find(({ control }) => formatControlAddress(control) !== address);
  if (first && other) {
    throw new CofferdamError(
      'BAD_CONFIG',
      `servers ${first.id} and ${other.id} are controlled at different addresses; serve each in a process of its own, ` +
        `with --only ${first.id} and --only ${other.id}`,
      { device: other.id },
    );
  }
  return first?.control;
}
