import type { FaultHandle, FaultRule } from '../devices/fault-rule.js';
import { CofferdamError } from '../runtime/errors.js';
import type { Cluster } from '../servers/cluster.js';

export interface FaultStatus {
  fault: number;
  server: string;
  /** To how many requests it has happened. */
  hits: number;
}

/** The faults that were injected through the control API, by number. */
export class FaultTable {
  readonly #cluster: Cluster;
  readonly #faults = new Map<number, { server: string; handle: FaultHandle }>();
  #lastNumber = 0;

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
  }

  /** @throws CofferdamError UNKNOWN_DEVICE; BAD_CONFIG if the server has no fault injector */
  inject(server: string, rule: FaultRule): FaultStatus {
    const handle = this.#cluster.injectFault(server, rule);
    const fault = ++this.#lastNumber;
    this.#faults.set(fault, { server, handle });
    return { fault, server, hits: handle.hits };
  }

  list(): FaultStatus[] {
    return [...this.#faults].map(([fault, { server, handle }]) => ({ fault, server, hits: handle.hits }));
  }

  /** @throws CofferdamError UNKNOWN_FAULT */
  release(fault: number): FaultStatus {
    const found = this.#faults.get(fault);
    if (!found) throw new CofferdamError('UNKNOWN_FAULT', `there is no fault ${fault}`);
    this.#faults.delete(fault);
    found.handle.release();
    return { fault, server: found.server, hits: found.handle.hits };
  }

  /** Takes all of them away: what hangs on them must not hold up the end. */
  releaseAll(): void {
    for (const fault of this.#faults.keys()) this.release(fault);
  }
}
