import type {
  CutConfirmation,
  CutRequest,
  CutTicket,
  ReleaseAnswer,
  ServerControl,
  ServerStatus,
} from '../../servers/control.js';
import type { StorageServer } from '../../servers/server.js';
import type { CutWatch } from './cut-watch.js';
import type { StorageNode } from './storage-node.js';

/** A server as a coordinator in its own process has it, watched. */
export class LocalServer implements ServerControl {
  readonly id: string;
  readonly sizeBytes: number;
  readonly identities = [];
  readonly #node: StorageNode;
  /** Of the present run: a coordinator that goes on in vain must not reach the next one. */
  readonly #server: StorageServer;
  readonly #watch: CutWatch;

  constructor(node: StorageNode, watch: CutWatch) {
    this.#node = node;
    this.#server = node.server;
    this.#watch = watch;
    this.id = node.id;
    this.sizeBytes = node.server.sizeBytes;
  }

  status(): Promise<ServerStatus> {
    return this.#server.status();
  }

  cut(request: CutRequest): Promise<CutConfirmation> {
    return this.#watch.cut(this.#node, request, () => this.#server.cut(request));
  }

  renew(ticket: CutTicket, leaseMs: number): Promise<void> {
    return this.#watch.renew(this.#node, leaseMs, () => this.#server.renew(ticket, leaseMs));
  }

  release(ticket: CutTicket): Promise<ReleaseAnswer> {
    return this.#watch.release(this.#node, ticket, () => this.#server.release(ticket));
  }

  stopTracking(epoch: number): Promise<void> {
    return this.#server.stopTracking(epoch);
  }
}
