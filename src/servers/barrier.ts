import { CofferdamError, invariant } from '../runtime/errors.js';
import type { Clock } from '../runtime/clock.js';
import type { CutTicket, ReleaseAnswer } from './control.js';
import { NativeGate, Shut } from './native-gate.js';

/**
 * The write barrier of one server.
 *
 * Invariants:
 * 1. `word[0]` is 1 exactly while a hold is up.
 * 2. No request is admitted while the word is 1. The native gate is shut to changes then.
 * 3. `inFlight` is the number of requests admitted and not yet finished, native ones included. It is raised in the same
 *    turn in which the request is admitted, or before the gate is looked at, so a drain never overlooks one that is about
 *    to start.
 * 4. Parked requests are admitted in the order in which they came, and before any request that comes later.
 * 5. The epoch only grows.
 * 6. A hold that has ended never comes up again, and only a release by its own ticket ends it unbroken.
 */
export class WriteBarrier {
  /** One word in memory shared with worker threads and native code: 1 while the barrier is up. */
  readonly word = new Int32Array(new SharedArrayBuffer(4));
  /** What keeps the changes of native threads out while the barrier is up. */
  readonly gate = new NativeGate();
  readonly #name: string;
  readonly #clock: Clock;
  readonly #parked: ParkedRequest[] = [];
  #epoch = 0;
  #inFlight = 0;
  #hold: Hold | undefined;
  /** How the last hold ended, so that a repeated release answers the same. */
  #lastRelease: { ticket: CutTicket; answer: ReleaseAnswer } | undefined;

  constructor(name: string, clock: Clock) {
    this.#name = name;
    this.#clock = clock;
  }

  get up(): boolean {
    return this.#hold !== undefined;
  }

  get epoch(): number {
    return this.#epoch;
  }

  get inFlight(): number {
    return this.#inFlight + this.gate.changesInside;
  }

  get parked(): number {
    return this.#parked.reduce((sum, { requests }) => sum + requests, 0);
  }

  /**
   * Admits a request, now or when the barrier comes down, and begins it in the same turn. Whoever was admitted calls
   * {@link finish} once.
   *
   * @param requests how many requests these are: some are sent together.
   */
  admit(begin: () => Promise<void>, requests = 1): Promise<void> {
    if (!this.#hold) {
      this.#inFlight += requests;
      return begin();
    }
    this.#hold.parkedRequests += requests;
    return new Promise((resolve, reject) => {
      this.#parked.push({
        begin: () => void begin().then(resolve, reject),
        refuse: reject,
        requests,
        parkedAtMs: this.#clock.nowMs(),
      });
    });
  }

  /** @param requests as they were admitted. */
  finish(requests = 1): void {
    this.#inFlight -= requests;
    if (this.#inFlight === 0) this.gate.wake();
  }

  /**
   * Raises the barrier. A hold of an older epoch that is still up is broken, and what it parked stays parked.
   *
   * @throws CofferdamError EPOCH_STALE
   */
  raise(ticket: CutTicket, leaseMs: number): Hold {
    const { epoch } = ticket;
    if (!Number.isSafeInteger(epoch) || epoch <= this.#epoch) {
      throw new CofferdamError(
        'EPOCH_STALE',
        `server ${this.#name}: cut of epoch ${epoch} refused, epoch ${this.#epoch} was already seen; another coordinator is at work`,
        { device: this.#name },
      );
    }
    this.#epoch = epoch;
    this.#end(`a coordinator with the newer epoch ${epoch} took over`);
    Atomics.store(this.word, 0, 1);
    this.gate.shutChanges(Shut.Barrier);
    const hold = new Hold({ epoch, coordinator: ticket.coordinator }, this.#clock.nowMs());
    this.#hold = hold;
    this.#lease(hold, leaseMs);
    return hold;
  }

  /** @throws CofferdamError EPOCH_STALE if the barrier of this cut is not up. */
  renew(ticket: CutTicket, leaseMs: number): void {
    const hold = this.#hold;
    if (!hold || !sameCut(hold.ticket, ticket)) {
      throw new CofferdamError(
        'EPOCH_STALE',
        `server ${this.#name}: the barrier of epoch ${ticket.epoch} is not up any more`,
        {
          device: this.#name,
        },
      );
    }
    this.#lease(hold, leaseMs);
  }

  /** Resolves when every request admitted before the barrier went up has finished, or the hold has ended. */
  async drained(hold: Hold): Promise<void> {
    while (this.inFlight > 0 && this.#hold === hold) await this.#idleOrEnded();
    hold.drained = this.#hold === hold;
  }

  /**
   * Ends a cut: its contents are about to be fixed. The caller fixes them in the same turn, before anything else can
   * happen to the barrier; between the end of the drain and this call it may have come down again.
   *
   * @throws CofferdamError CUT_ABORTED if it has.
   */
  confirm(hold: Hold): void {
    if (this.#hold !== hold) {
      throw new CofferdamError(
        'CUT_ABORTED',
        `server ${this.#name}: the barrier came down before the cut was confirmed: ${hold.brokenBecause ?? 'it was released'}`,
        { device: this.#name },
      );
    }
    // Not the native ones: who tries the gate now is counted for a moment, and turns back.
    invariant(hold.drained && this.#inFlight === 0, 'contents are fixed only when nothing is in flight');
    hold.confirmed = true;
  }

  /** Lowers the barrier of this cut, if it is up, and says how it was held. May be repeated. */
  release(ticket: CutTicket): ReleaseAnswer {
    const hold = this.#hold;
    if (hold && sameCut(hold.ticket, ticket)) {
      this.#end(undefined);
      this.#lower();
    }
    const last = this.#lastRelease;
    if (last && sameCut(last.ticket, ticket)) return last.answer;
    return {
      heldWithoutBreak: false,
      reason: `server ${this.#name} knows of no such barrier of epoch ${ticket.epoch}; it may have restarted`,
      holdMs: 0,
      parkedRequests: 0,
      longestParkMs: 0,
    };
  }

  /** Lowers the barrier, if it is up, without its coordinator: nobody vouches for the cut, and what is parked goes on. */
  break(reason: string): void {
    if (!this.#hold) return;
    this.#end(reason);
    this.#lower();
  }

  /** Breaks the hold, forgets how earlier ones ended and refuses what is parked: the server lost its power. */
  reset(reason: string, refusal: Error): void {
    this.#end(reason);
    this.#lastRelease = undefined;
    for (const request of this.#parked.splice(0)) request.refuse(refusal);
    this.#lower();
  }

  /** Resolves when no admitted request is unfinished. The gate is shut. */
  async idle(): Promise<void> {
    while (this.inFlight > 0) await this.#idleOrEnded();
  }

  #idleOrEnded(): Promise<void> {
    return this.gate.left();
  }

  #lease(hold: Hold, leaseMs: number): void {
    hold.lease?.[Symbol.dispose]();
    hold.lease = this.#clock.setTimer(leaseMs, () => {
      if (this.#hold === hold) this.break(`its lease of ${leaseMs} ms ran out`);
    });
  }

  /** Ends the hold that is up, if any, without touching the word or the queue. */
  #end(brokenBecause: string | undefined): void {
    const hold = this.#hold;
    if (!hold) return;
    this.#hold = undefined;
    hold.up = false;
    hold.lease?.[Symbol.dispose]();
    hold.brokenBecause =
      brokenBecause ?? (hold.confirmed ? undefined : 'it was released before it was confirmed');
    const now = this.#clock.nowMs();
    const oldest = this.#parked[0];
    if (oldest)
      hold.longestParkMs = Math.max(hold.longestParkMs, now - Math.max(oldest.parkedAtMs, hold.raisedAtMs));
    this.#lastRelease = { ticket: hold.ticket, answer: hold.answer(now) };
    this.gate.wake();
  }

  #lower(): void {
    // The word falls first: native readers that trust the barrier must see it down before any write is admitted.
    Atomics.store(this.word, 0, 0);
    for (const request of this.#parked.splice(0)) {
      this.#inFlight += request.requests;
      request.begin();
    }
    // Last, so that what was parked is admitted before what comes later.
    this.gate.openChanges(Shut.Barrier);
  }
}

/** One raising of the barrier, from the cut until it comes down. */
export class Hold {
  up = true;
  /** Set once the contents are fixed inside the barrier. */
  confirmed = false;
  /** Set once nothing that was admitted before the barrier went up is unfinished. */
  drained = false;
  brokenBecause: string | undefined;
  parkedRequests = 0;
  longestParkMs = 0;
  lease: Disposable | undefined;

  constructor(
    readonly ticket: CutTicket,
    readonly raisedAtMs: number,
  ) {}

  answer(nowMs: number): ReleaseAnswer {
    return {
      heldWithoutBreak: this.brokenBecause === undefined,
      ...(this.brokenBecause === undefined ? {} : { reason: this.brokenBecause }),
      holdMs: nowMs - this.raisedAtMs,
      parkedRequests: this.parkedRequests,
      longestParkMs: this.longestParkMs,
    };
  }
}

function sameCut(a: CutTicket, b: CutTicket): boolean {
  return a.epoch === b.epoch && a.coordinator === b.coordinator;
}

interface ParkedRequest {
  begin: () => void;
  refuse: (error: Error) => void;
  requests: number;
  parkedAtMs: number;
}
