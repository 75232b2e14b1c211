import { randomUUID } from 'node:crypto';
import type { Clock } from '../runtime/clock.js';
import { CofferdamError, invariant, messageOf } from '../runtime/errors.js';
import type { CutRequest, CutSource, CutTicket, ReleaseAnswer, ServerControl } from '../servers/control.js';
import { cancellation, throwIfCancelled } from './cancellation.js';
import type { CutCertificate } from './image/record.js';

/** The lease of a cut without a stall budget. It is renewed three times as often, for as long as the cut is held. */
const RENEWED_LEASE_MS = 10_000;

export interface GroupCutOptions extends Pick<CutRequest, 'fixedBy' | 'blockSizeBytes' | 'trackChanges'> {
  clock: Clock;
  /** Bound on the time from the first barrier going up to the last one coming down, in ms. Absent: none. */
  maxStallMs?: number | undefined;
  /** Fix only the blocks changed since the cut of this epoch, server by server. */
  changedSinceEpochs?: ReadonlyMap<string, number>;
  signal?: AbortSignal | undefined;
}

/**
 * One cut over a group of servers: cut-and-hold.
 *
 * 1. Send `cut` to every server; each raises its barrier, drains, fixes its contents, confirms.
 * 2. Wait until all have confirmed. At this instant all barriers are up and all contents are fixed.
 * 3. Send `release` to every server, not before step 2 ended.
 * 4. Every answer must say that the barrier was held without a break since its cut, or the whole cut is void.
 *
 * Invariants:
 * - No `release` of a cut that succeeds is sent before the last confirmation has arrived.
 * - However the cut ends, every server that may have raised its barrier is sent a `release`, and every source that was
 *   handed out is closed, here or by whoever called {@link takeSources}.
 * - A cut whose barriers were up longer than `maxStallMs` fails, and so does one that any server does not vouch for.
 */
export class GroupCut implements AsyncDisposable {
  readonly ticket: CutTicket;
  /** Aborts when the cut must end early: the caller cancelled or the stall budget is spent. */
  readonly signal: AbortSignal;
  readonly #servers: readonly ServerControl[];
  readonly #options: GroupCutOptions;
  readonly #ended = new AbortController();
  readonly #sources = new Map<string, CutSource>();
  readonly #answers = new Map<string, ReleaseAnswer>();
  readonly #releasing = new Map<string, Promise<void>>();
  readonly #raisedAtMs: number;
  #budget: Disposable | undefined;
  #renewal: Disposable | undefined;
  #allConfirmedAtMs = 0;
  #firstReleaseAtMs: number | undefined;
  #lastReleasedAtMs = 0;
  #isFinished = false;

  private constructor(servers: readonly ServerControl[], epoch: number, options: GroupCutOptions) {
    this.#servers = servers;
    this.#options = options;
    this.ticket = { epoch, coordinator: randomUUID() };
    this.signal = options.signal ? AbortSignal.any([options.signal, this.#ended.signal]) : this.#ended.signal;
    this.#raisedAtMs = options.clock.nowMs();
  }

  /**
   * Raises all barriers and returns once all contents are fixed and all barriers are known to be up.
   *
   * @throws CofferdamError CANCELLED, STALL_BUDGET_EXCEEDED, or what a server refused the cut with (EPOCH_STALE,
   * CUT_ABORTED, CUT_VOID, ...); all barriers have been told to come down then.
   */
  static async raise(servers: readonly ServerControl[], options: GroupCutOptions): Promise<GroupCut> {
    const statuses = await Promise.all(servers.map((server) => server.status()));
    throwIfCancelled(options.signal);
    const epoch = 1 + statuses.reduce((highest, status) => Math.max(highest, status.epoch), 0);
    const cut = new GroupCut(servers, epoch, options);
    try {
      await cut.#raiseAll();
      return cut;
    } catch (error) {
      await cut.abandon();
      throw error;
    }
  }

  /** The contents that the cut fixed, by server ID. The caller closes them; {@link abandon} no longer does. */
  takeSources(): Map<string, CutSource> {
    const taken = new Map(this.#sources);
    this.#sources.clear();
    return taken;
  }

  /** The contents of one server, while its barrier is up. They stay the cut's own. */
  source(id: string): CutSource {
    const source = this.#sources.get(id);
    invariant(source !== undefined, `the cut has a source for ${id}`);
    return source;
  }

  /** Lowers one server's barrier. May be repeated; never fails: an answer that does not come is a broken hold. */
  release(server: ServerControl): Promise<void> {
    let releasing = this.#releasing.get(server.id);
    if (!releasing) {
      this.#firstReleaseAtMs ??= this.#options.clock.nowMs();
      releasing = this.#release(server);
      this.#releasing.set(server.id, releasing);
    }
    return releasing;
  }

  /**
   * Lowers every barrier that is still up and judges the cut.
   *
   * @throws CofferdamError CUT_VOID, STALL_BUDGET_EXCEEDED, CANCELLED
   */
  async finish(): Promise<CutCertificate> {
    await Promise.all(this.#servers.map((server) => this.release(server)));
    this.#stopTimers();
    this.#assertInTime();
    this.#assertHeld();
    this.#isFinished = true;
    return this.#certificate();
  }

  /** Lowers every barrier and closes every source, however far the cut got. Never fails. */
  async abandon(): Promise<void> {
    await Promise.all(this.#servers.map((server) => this.release(server)));
    this.#stopTimers();
    if (!this.#ended.signal.aborted)
      this.#ended.abort(new CofferdamError('CANCELLED', 'the cut was abandoned'));
    await Promise.allSettled([...this.#sources.values()].map((source) => source.close()));
    this.#sources.clear();
    if (this.#isFinished || !this.#options.trackChanges) return;
    // Nobody will ever collect the changes since a cut that failed.
    await Promise.allSettled(this.#servers.map((server) => server.stopTracking(this.ticket.epoch)));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.abandon();
  }

  async #raiseAll(): Promise<void> {
    const { clock, maxStallMs, fixedBy, blockSizeBytes, trackChanges, changedSinceEpochs } = this.#options;
    if (maxStallMs !== undefined) {
      this.#budget = clock.setTimer(maxStallMs, () => this.#ended.abort(this.#stallError(maxStallMs)));
    }
    const ended = rejectOnAbort(this.signal);
    // 1. One message per server, all at once.
    const confirmations = this.#servers.map(async (server) => {
      const changedSinceEpoch = changedSinceEpochs?.get(server.id);
      const confirmation = await server.cut({
        ...this.ticket,
        leaseMs: maxStallMs ?? RENEWED_LEASE_MS,
        fixedBy,
        blockSizeBytes,
        trackChanges: trackChanges ?? false,
        ...(changedSinceEpoch === undefined ? {} : { changedSinceEpoch }),
      });
      // A confirmation that comes after the cut was given up still hands out a source.
      if (this.#releasing.has(server.id)) await confirmation.source.close();
      else this.#sources.set(server.id, confirmation.source);
    });
    if (maxStallMs === undefined) this.#renewInTime();
    // 2. All of them, before any release.
    await Promise.race([Promise.all(confirmations), ended]);
    throwIfCancelled(this.signal);
    this.#allConfirmedAtMs = clock.nowMs();
  }

  #renewInTime(): void {
    this.#renewal = this.#options.clock.setTimer(RENEWED_LEASE_MS / 3, () => {
      const held = this.#servers.filter((server) => !this.#releasing.has(server.id));
      // A renewal that fails means a broken hold, which the release will tell.
      void Promise.allSettled(held.map((server) => server.renew(this.ticket, RENEWED_LEASE_MS)));
      this.#renewInTime();
    });
  }

  async #release(server: ServerControl): Promise<void> {
    let answer: ReleaseAnswer;
    // A barrier that nobody could release has come down by its lease, so there is no point in waiting longer.
    const patienceMs = this.#options.maxStallMs ?? RENEWED_LEASE_MS;
    let timer: Disposable | undefined;
    const silence = new Promise<never>((_, reject) => {
      timer = this.#options.clock.setTimer(patienceMs, () =>
        reject(new Error(`none within ${patienceMs} ms`)),
      );
    });
    try {
      answer = await Promise.race([server.release(this.ticket), silence]);
    } catch (error) {
      answer = {
        heldWithoutBreak: false,
        reason: `no answer to the release: ${messageOf(error)}`,
        holdMs: 0,
        parkedRequests: 0,
        longestParkMs: 0,
      };
    } finally {
      timer?.[Symbol.dispose]();
    }
    this.#answers.set(server.id, answer);
    this.#lastReleasedAtMs = this.#options.clock.nowMs();
  }

  #assertInTime(): void {
    const { maxStallMs, signal } = this.#options;
    throwIfCancelled(signal);
    if (maxStallMs !== undefined && this.#stallMs() > maxStallMs) throw this.#stallError(maxStallMs);
    throwIfCancelled(this.signal);
  }

  #assertHeld(): void {
    for (const [id, answer] of this.#answers) {
      if (answer.heldWithoutBreak) continue;
      throw new CofferdamError(
        'CUT_VOID',
        `server ${id} did not hold its barrier without a break (${answer.reason ?? 'it gave no reason'}), so the cut proves nothing; nothing was committed, try again`,
        { device: id },
      );
    }
  }

  #certificate(): CutCertificate {
    return {
      group: { stallMs: this.#stallMs(), overlapMs: (this.#firstReleaseAtMs ?? 0) - this.#allConfirmedAtMs },
      servers: [...this.#answers].map(([id, { heldWithoutBreak, holdMs, parkedRequests, longestParkMs }]) => {
        return { id, epoch: this.ticket.epoch, heldWithoutBreak, holdMs, parkedRequests, longestParkMs };
      }),
    };
  }

  #stallMs(): number {
    return this.#lastReleasedAtMs - this.#raisedAtMs;
  }

  #stallError(maxStallMs: number): CofferdamError {
    const late = this.#servers.filter((server) => !this.#sources.has(server.id)).map((server) => server.id);
    const why = late.length > 0 ? `; not ready in time: ${late.slice(0, 5).join(', ')}` : '';
    return new CofferdamError(
      'STALL_BUDGET_EXCEEDED',
      `the barriers would have been up longer than the allowed ${maxStallMs} ms${why}; nothing was committed, ` +
        'try again, allow a longer stall, or find out why writes take so long to finish',
      late[0] === undefined ? {} : { device: late[0] },
    );
  }

  #stopTimers(): void {
    this.#budget?.[Symbol.dispose]();
    this.#renewal?.[Symbol.dispose]();
  }
}

function rejectOnAbort(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(cancellation(signal));
    else signal.addEventListener('abort', () => reject(cancellation(signal)), { once: true });
  });
}
