import { randomUUID } from 'node:crypto';
import type { Clock } from '../runtime/clock.js';
import { CofferdamError } from '../runtime/errors.js';

/** How long something is kept for a coordinator that says nothing, in ms. */
export const LEASE_MS = 15_000;

interface Lease<T> {
  value: T;
  end: () => Promise<void>;
  timer: Disposable;
}

/**
 * What a server keeps for coordinators in other processes. A coordinator that dies renews nothing, so nothing of it
 * stays: no snapshot, whose pre-images take space, and no tracking of changes.
 *
 * Invariant: `end` of everything that was granted is called exactly once: when it is given back, when its lease runs out,
 * or when all end.
 */
export class Leases<T> {
  readonly #clock: Clock;
  readonly #newId: () => string;
  readonly #leases = new Map<string, Lease<T>>();
  #isOver = false;

  /** @param newId makes handles, each of which nobody can guess and no run of the server has had. */
  constructor(clock: Clock, newId: () => string = randomUUID) {
    this.#clock = clock;
    this.#newId = newId;
  }

  /**
   * @returns the handle by which it is renewed and given back.
   * @throws CofferdamError DEVICE_CLOSED once all have ended; the caller keeps the value.
   */
  grant(value: T, end: () => Promise<void>): string {
    if (this.#isOver)
      throw new CofferdamError('DEVICE_CLOSED', 'nothing is kept any more: the service has ended');
    const id = this.#newId();
    this.#leases.set(id, { value, end, timer: this.#timer(id) });
    return id;
  }

  /**
   * What was granted under a handle; its lease begins anew.
   *
   * @throws CofferdamError UNKNOWN_SNAPSHOT if it ran out, was given back, or is of another run of the server.
   */
  renew(id: string): T {
    const lease = this.#leases.get(id);
    if (!lease) {
      throw new CofferdamError(
        'UNKNOWN_SNAPSHOT',
        `nothing is kept under ${id}; its lease of ${LEASE_MS} ms ran out, or the server has restarted`,
      );
    }
    lease.timer[Symbol.dispose]();
    lease.timer = this.#timer(id);
    return lease.value;
  }

  /** Whether it was neither given back nor ran out. */
  has(id: string): boolean {
    return this.#leases.has(id);
  }

  /** Gives something back. Nothing happens if that was done before. */
  async end(id: string): Promise<void> {
    const lease = this.#leases.get(id);
    if (!lease) return;
    this.#leases.delete(id);
    lease.timer[Symbol.dispose]();
    await lease.end();
  }

  /** Gives everything back; nothing is granted any more. */
  async endAll(): Promise<void> {
    this.#isOver = true;
    await Promise.allSettled([...this.#leases.keys()].map((id) => this.end(id)));
  }

  #timer(id: string): Disposable {
    return this.#clock.setTimer(LEASE_MS, () => void this.end(id).catch(() => {}));
  }
}
