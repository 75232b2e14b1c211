import type { BlockDevice } from '../../devices/block-device.js';
import type { Clock } from '../../runtime/clock.js';
import type { ControlAddress } from '../../servers/control-address.js';
import type { CutCalls, RemoteProcess } from '../../service/cut-calls.js';
import { InterceptedDevice } from './intercepted-device.js';
import type { Run } from './machine.js';
import type { Network } from './network.js';
import type { StorageNode } from './storage-node.js';

/** As the control client waits, in ms. */
const PATIENCE_MS = 10_000;
const CUT_MARGIN_MS = 5000;

/** The process of a storage node, as a run of a coordinator's machine reaches it over the network. */
export class SimulatedProcess implements RemoteProcess {
  readonly address: ControlAddress;
  readonly clock: Clock;
  readonly calls: CutCalls;
  readonly #network: Network;
  readonly #from: Run;
  readonly #node: StorageNode;

  constructor(network: Network, from: Run, node: StorageNode) {
    this.#network = network;
    this.#from = from;
    this.#node = node;
    this.address = { kind: 'unix', path: `/${node.machine.name}` };
    this.clock = from.machine.clock;
    this.calls = this.#carry();
  }

  async openSnapshot(uri: string): Promise<BlockDevice> {
    const { id, machine } = this.#node;
    const connected = <T>(label: string, request: () => Promise<T>): Promise<T> =>
      this.#network.call(this.#from, machine, label, request, { isConnected: true });
    const device = await connected(`open a snapshot of ${id}`, async () => this.#node.snapshotExport(uri));
    return new InterceptedDevice(device, (operation, request) =>
      connected(`${operation} of a snapshot of ${id}`, request),
    );
  }

  #carry(): CutCalls {
    const node = this.#node;
    const carry = <T>(
      label: string,
      request: (calls: CutCalls) => Promise<T>,
      patienceMs = PATIENCE_MS,
    ): Promise<T> =>
      this.#network.call(this.#from, node.machine, label, () => request(node.calls), { patienceMs });
    return {
      status: (id) => carry('status', (calls) => calls.status(id)),
      cut: (id, request) =>
        carry(`cut ${request.epoch}`, (calls) => calls.cut(id, request), request.leaseMs + CUT_MARGIN_MS),
      renew: (id, ticket, leaseMs) =>
        carry(`renew ${ticket.epoch}`, (calls) => calls.renew(id, ticket, leaseMs)),
      release: (id, ticket) => carry(`release ${ticket.epoch}`, (calls) => calls.release(id, ticket)),
      stopTracking: (id, epoch) => carry(`stop tracking ${epoch}`, (calls) => calls.stopTracking(id, epoch)),
      renewTracking: (lease) => carry('renew tracking', (calls) => calls.renewTracking(lease)),
      assertIntact: (lease) => carry('intact?', (calls) => calls.assertIntact(lease)),
      markCopied: (lease, ranges) => carry('copied', (calls) => calls.markCopied(lease, ranges)),
      closeSource: (lease) => carry('close source', (calls) => calls.closeSource(lease)),
    };
  }
}
