import type { CutRequest, CutTicket, ReleaseAnswer } from '../../servers/control.js';
import type { StorageServer } from '../../servers/server.js';
import type { StorageNode } from './storage-node.js';
import type { Surroundings } from './surroundings.js';

/** How late a barrier may be seen to come down, in ms: timers of one instant run one after the other. */
const GRACE_MS = 0.001;

/** A lease of a barrier. */
interface Lease {
  leaseMs: number;
}

/**
 * Watches cuts where they reach their servers. Checked here:
 *
 * 1. Every barrier is down when its lease has run out, and what it parked has gone on.
 * 2. In one run of a server an epoch is confirmed to one coordinator only, and vouched for only to that one.
 */
export class CutWatch {
  readonly #world: Surroundings;
  /** The newest lease of each server's run. */
  readonly #leases = new Map<string, Lease>();
  /** To whom each epoch of each server's run was confirmed. */
  readonly #confirmed = new Map<string, string>();

  constructor(world: Surroundings) {
    this.#world = world;
  }

  async cut<T>(node: StorageNode, request: CutRequest, cut: () => Promise<T>): Promise<T> {
    const { server } = node;
    const before = (await server.status()).epoch;
    const key = keyOf(node, request.epoch);
    if (request.epoch > before) this.#watchLease(node, request.leaseMs);
    const confirmation = await cut();
    const other = this.#confirmed.get(key);
    if (other !== undefined && other !== request.coordinator) {
      this.#world.violated('fencing', `${key} was confirmed to ${other} and to ${request.coordinator}`);
    }
    this.#confirmed.set(key, request.coordinator);
    return confirmation;
  }

  async renew(node: StorageNode, leaseMs: number, renew: () => Promise<void>): Promise<void> {
    await renew();
    this.#watchLease(node, leaseMs);
  }

  async release(
    node: StorageNode,
    ticket: CutTicket,
    release: () => Promise<ReleaseAnswer>,
  ): Promise<ReleaseAnswer> {
    const key = keyOf(node, ticket.epoch);
    const answer = await release();
    const owner = this.#confirmed.get(key) ?? ticket.coordinator;
    if (answer.heldWithoutBreak && owner !== ticket.coordinator) {
      this.#world.violated(
        'fencing',
        `${key} is vouched for to ${ticket.coordinator}, but was confirmed to ${owner}`,
      );
    }
    return answer;
  }

  #watchLease(node: StorageNode, leaseMs: number): void {
    const { server, machine } = node;
    const name = `${node.id} of ${machine.present.name}`;
    const lease: Lease = { leaseMs };
    this.#leases.set(name, lease);
    machine.clock.setTimer(leaseMs + GRACE_MS, () => void this.#checkLease(server, name, lease));
  }

  async #checkLease(server: StorageServer, name: string, lease: Lease): Promise<void> {
    const { barrierUp, epoch, parked } = await server.status();
    // A later cut or renewal has a lease of its own.
    const isStillUp = barrierUp && this.#leases.get(name) === lease;
    const isStranded = !barrierUp && parked > 0;
    if (!isStillUp && !isStranded) return;
    const what = isStillUp ? `the barrier of epoch ${epoch} is up` : `${parked} writes are parked`;
    this.#world.violated('lease', `${name}: ${what} after its lease of ${lease.leaseMs} ms`);
  }
}

function keyOf(node: StorageNode, epoch: number): string {
  return `${node.id} of ${node.machine.present.name}, epoch ${epoch}`;
}
