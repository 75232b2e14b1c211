import { FaultyDevice, type FaultHandle, type FaultRule } from '../devices/faulty.js';
import { MemoryDevice } from '../devices/memory.js';
import { MirroredDevice } from '../devices/mirrored.js';
import { identityOf, openDevice } from '../devices/open.js';
import { StripedDevice } from '../devices/striped.js';
import { VolatileCacheDevice } from '../devices/volatile-cache.js';
import type { BlockDevice } from '../devices/block-device.js';
import { NbdDevice } from '../nbd/client/device.js';
import { realClock, type Clock } from '../runtime/clock.js';
import { CofferdamError } from '../runtime/errors.js';
import {
  parseClusterConfig,
  readClusterFile,
  type ClusterInput,
  type ServerConfig,
} from './cluster-config.js';
import type { DeviceConfig } from './device-config.js';
import { StorageServer } from './server.js';

/** Storage servers of one process, each with its device, opened and closed together. */
export class Cluster implements AsyncDisposable {
  readonly #members: ReadonlyMap<string, Member>;

  /** Use {@link openCluster}. */
  constructor(members: ReadonlyMap<string, Member>) {
    this.#members = members;
  }

  /** All servers, in the order of the configuration. */
  get servers(): StorageServer[] {
    return [...this.#members.values()].map((member) => member.server);
  }

  has(id: string): boolean {
    return this.#members.has(id);
  }

  /** @throws CofferdamError UNKNOWN_DEVICE */
  server(id: string): StorageServer {
    return this.#member(id).server;
  }

  /**
   * A server's device as its clients see it: through the barrier.
   *
   * @throws CofferdamError UNKNOWN_DEVICE
   */
  client(id: string): BlockDevice {
    return this.server(id).client;
  }

  /**
   * Adds a fault to a server's device. It stays until the handle is disposed of.
   *
   * @throws CofferdamError UNKNOWN_DEVICE, or BAD_CONFIG if the server was configured without `faults: true`
   */
  injectFault(id: string, rule: FaultRule): FaultHandle {
    const { faults } = this.#member(id);
    if (faults) return faults.inject(rule);
    throw new CofferdamError(
      'BAD_CONFIG',
      `server ${id} has no fault injector; configure it with faults: true`,
      {
        device: id,
      },
    );
  }

  /**
   * Cuts the power of all servers at one instant; they are back when this resolves. See {@link StorageServer.powerCut}.
   *
   * @param options.seed decides, with the server's place, which unflushed sectors survive.
   */
  async powerCut(options: { seed: number }): Promise<void> {
    await Promise.all(this.servers.map((server, index) => server.powerCut({ seed: options.seed + index })));
  }

  /** Closes all servers and their devices. */
  async close(): Promise<void> {
    const closed = await Promise.allSettled(this.servers.map((server) => server.close()));
    for (const result of closed) if (result.status === 'rejected') throw result.reason;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #member(id: string): Member {
    const member = this.#members.get(id);
    if (member) return member;
    throw new CofferdamError(
      'UNKNOWN_DEVICE',
      `there is no server ${id}; there are ${[...this.#members.keys()].join(', ')}`,
      {
        device: id,
      },
    );
  }
}

interface Member {
  server: StorageServer;
  faults: FaultyDevice | undefined;
}

/**
 * Starts the servers of a configuration: an object, or the path of a YAML file.
 *
 * @throws CofferdamError BAD_CONFIG; DEVICE_NOT_FOUND, DEVICE_BUSY and what else opening a device throws. Whatever was
 * opened before the failure is closed again.
 */
export async function openCluster(
  input: ClusterInput | string,
  options: { clock?: Clock } = {},
): Promise<Cluster> {
  const config = typeof input === 'string' ? await readClusterFile(input) : parseClusterConfig(input);
  return openServers(config.servers, options.clock ?? realClock);
}

/**
 * Starts some of the servers of a configuration.
 *
 * @throws as {@link openCluster}, but not BAD_CONFIG
 */
export async function openServers(servers: readonly ServerConfig[], clock: Clock): Promise<Cluster> {
  const members = new Map<string, Member>();
  try {
    for (const server of servers) members.set(server.id, await openMember(server, clock));
  } catch (error) {
    await new Cluster(members).close();
    throw error;
  }
  return new Cluster(members);
}

async function openMember(config: ServerConfig, clock: Clock): Promise<Member> {
  const bottom = await open(config.device);
  const cache = config.volatileCache ? new VolatileCacheDevice(bottom) : undefined;
  // Faults stand between the clients and the cache: they are what a client may see, not what the medium does.
  const faults = config.faults ? new FaultyDevice(cache ?? bottom, { clock }) : undefined;
  const { memory, spill, directory } = config.preImages;
  const server = new StorageServer({
    id: config.id,
    device: faults ?? cache ?? bottom,
    cache,
    identities: await identitiesOf(config.device),
    preImages: {
      ...(memory === undefined ? {} : { memoryBytes: memory }),
      ...(spill === undefined ? {} : { spillBytes: spill }),
      ...(directory === undefined ? {} : { directory }),
    },
    clock,
  });
  return { server, faults };
}

async function open(config: DeviceConfig): Promise<BlockDevice> {
  switch (config.kind) {
    case 'file':
      return openFile(config);
    case 'memory':
      return new MemoryDevice(config.size);
    case 'nbd':
      return NbdDevice.open(config.uri);
    case 'striped':
      return openComposite(
        config.of,
        (children) => new StripedDevice(children, { stripeBytes: config.stripe }),
      );
    case 'mirrored':
      return openComposite(config.of, (children) => new MirroredDevice(children));
  }
}

async function openFile({ path, readOnly, create }: DeviceConfig & { kind: 'file' }): Promise<BlockDevice> {
  // What was made when the cluster was first opened is there from then on.
  const isNew = create !== undefined && (await identityOf(path)).length === 0;
  return await openDevice(path, { readOnly, ...(isNew ? { create: { sizeBytes: create } } : {}) });
}

/** Opens the children and makes one device of them; closes them if either fails. */
async function openComposite(
  configs: readonly DeviceConfig[],
  compose: (children: BlockDevice[]) => BlockDevice,
): Promise<BlockDevice> {
  const opened: BlockDevice[] = [];
  try {
    for (const config of configs) opened.push(await open(config));
    return compose(opened);
  } catch (error) {
    await Promise.all(opened.map((device) => device.close()));
    throw error;
  }
}

async function identitiesOf(config: DeviceConfig): Promise<string[]> {
  switch (config.kind) {
    case 'file':
      return identityOf(config.path);
    case 'memory':
    case 'nbd': // What an export stands on, its server does not tell.
      return [];
    case 'striped':
    case 'mirrored':
      return (await Promise.all(config.of.map(identitiesOf))).flat();
  }
}
