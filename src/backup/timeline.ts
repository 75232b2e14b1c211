import type { Clock } from '../runtime/clock.js';
import { invariant } from '../runtime/errors.js';
import type {
  CutConfirmation,
  CutRequest,
  CutSource,
  CutTicket,
  ReleaseAnswer,
  ServerControl,
  ServerStatus,
} from '../servers/control.js';
import type { NodePointer } from './image/layout.js';
import type { Progress } from './progress.js';
import type { DeviceCopier, StrategyRun } from './strategies.js';

/** What happened when in a backup. All times are in ms since the backup began, on the clock of its coordinator. */
export interface BackupTimeline {
  /** One for each time that a server's barrier went up, in the order in which the servers were asked. */
  barriers: BarrierSpan[];
  /** One for each time that a device was copied, in order. `rolling` copies a device whole and then its changes. */
  copies: CopySpan[];
}

/** One barrier. It went up between `cutMs` and `confirmedMs`, and came down between `releaseMs` and `releasedMs`. */
export interface BarrierSpan {
  /** ID of the server. */
  id: string;
  /** Which cut of the backup it belongs to, counted from 1. The barriers of one cut overlap. */
  cut: number;
  /** When the server was told to raise it. */
  cutMs: number;
  /** When the server had drained the writes under way, fixed its contents and said so. */
  confirmedMs: number;
  /** When the server was told to lower it. */
  releaseMs: number;
  /** When the server had answered that it did. */
  releasedMs: number;
  /** For how long it was up, as the server says. */
  holdMs: number;
  /** Requests that waited for it to come down. */
  parkedRequests: number;
  /** The longest that one of them waited. */
  longestParkMs: number;
}

export interface CopySpan {
  /** ID of the device. */
  id: string;
  startMs: number;
  endMs: number;
  /** How many bytes of the device this copy had to deal with. */
  totalBytes: number;
  /** How many of them were dealt with by when, from none at `startMs` to all at `endMs`; at most about a hundred points. */
  points: [atMs: number, doneBytes: number][];
}

/** Notes what a backup does when. It stands between a strategy and what the strategy works with, and changes nothing. */
export class TimelineRecorder {
  readonly #clock: Clock;
  readonly #progress: Progress;
  readonly #startedMs: number;
  readonly #cuts = new Map<string, number>();
  readonly #barriers: BarrierSpan[] = [];
  readonly #copies: CopySpan[] = [];

  /** @param startedMs when the backup began, on that clock. */
  constructor(clock: Clock, progress: Progress, startedMs: number) {
    this.#clock = clock;
    this.#progress = progress;
    this.#startedMs = startedMs;
  }

  get timeline(): BackupTimeline {
    const barriers = this.#barriers.toSorted((a, b) => a.cut - b.cut || a.cutMs - b.cutMs);
    return { barriers, copies: [...this.#copies] };
  }

  /** The same run, with what it does noted here. */
  watch(run: StrategyRun): StrategyRun {
    return {
      ...run,
      servers: run.servers.map((server) => new WatchedServer(server, this)),
      copier: {
        copy: (server, source, signal, base) => this.#copy(run.copier, server, source, signal, base),
      },
    };
  }

  /** Time since the backup began, in ms. */
  nowMs(): number {
    return this.#clock.nowMs() - this.#startedMs;
  }

  /** The number of a cut, which is the next one for a cut that was not seen before. */
  numberOf({ coordinator }: CutTicket): number {
    const number = this.#cuts.get(coordinator) ?? this.#cuts.size + 1;
    this.#cuts.set(coordinator, number);
    return number;
  }

  noteBarrier(span: BarrierSpan): void {
    this.#barriers.push(span);
  }

  async #copy(
    copier: DeviceCopier,
    server: ServerControl,
    source: CutSource,
    signal: AbortSignal,
    base: NodePointer | null | undefined,
  ): Promise<NodePointer | null> {
    const { doneBytes: doneBefore, totalBytes: totalBefore } = this.#progress.device(server.id);
    using curve = new Curve(this.#clock, () => [
      this.nowMs(),
      this.#progress.device(server.id).doneBytes - doneBefore,
    ]);
    const startMs = this.nowMs();
    const root = await copier.copy(server, source, signal, base);
    const endMs = this.nowMs();
    const totalBytes = this.#progress.device(server.id).totalBytes - totalBefore;
    const points: CopySpan['points'] = [[startMs, 0], ...curve.points, [endMs, totalBytes]];
    this.#copies.push({ id: server.id, startMs, endMs, totalBytes, points });
    return root;
  }
}

/** A server whose barriers are noted. */
class WatchedServer implements ServerControl {
  readonly #server: ServerControl;
  readonly #recorder: TimelineRecorder;
  /** Of each cut that was confirmed, by its coordinator. */
  readonly #confirmed = new Map<string, Pick<BarrierSpan, 'cut' | 'cutMs' | 'confirmedMs'>>();

  constructor(server: ServerControl, recorder: TimelineRecorder) {
    this.#server = server;
    this.#recorder = recorder;
  }

  get id(): string {
    return this.#server.id;
  }

  get sizeBytes(): number {
    return this.#server.sizeBytes;
  }

  get identities(): readonly string[] {
    return this.#server.identities;
  }

  status(): Promise<ServerStatus> {
    return this.#server.status();
  }

  async cut(request: CutRequest): Promise<CutConfirmation> {
    const cut = this.#recorder.numberOf(request);
    const cutMs = this.#recorder.nowMs();
    const confirmation = await this.#server.cut(request);
    this.#confirmed.set(request.coordinator, { cut, cutMs, confirmedMs: this.#recorder.nowMs() });
    return confirmation;
  }

  renew(ticket: CutTicket, leaseMs: number): Promise<void> {
    return this.#server.renew(ticket, leaseMs);
  }

  stopTracking(epoch: number): Promise<void> {
    return this.#server.stopTracking(epoch);
  }

  async release(ticket: CutTicket): Promise<ReleaseAnswer> {
    const releaseMs = this.#recorder.nowMs();
    const answer = await this.#server.release(ticket);
    const confirmed = this.#confirmed.get(ticket.coordinator);
    // A cut that some server did not confirm fails, and so does its backup: nobody will ask for its timeline.
    if (!confirmed) return answer;
    const { holdMs, parkedRequests, longestParkMs } = answer;
    const releasedMs = this.#recorder.nowMs();
    this.#recorder.noteBarrier({
      id: this.id,
      ...confirmed,
      releaseMs,
      releasedMs,
      holdMs,
      parkedRequests,
      longestParkMs,
    });
    return answer;
  }
}

/** How long after the first sample the second one is taken. */
const FIRST_INTERVAL_MS = 5;

/** Past so many points every other one is given up, and from then on they are taken half as often. */
const MAX_POINTS = 100;

/** Samples of something that takes an unknown time: close together if it is short, few if it is long. */
class Curve implements Disposable {
  points: [x: number, y: number][] = [];
  readonly #clock: Clock;
  readonly #sample: () => [x: number, y: number];
  #intervalMs = FIRST_INTERVAL_MS;
  #timer: Disposable | undefined;

  constructor(clock: Clock, sample: () => [x: number, y: number]) {
    this.#clock = clock;
    this.#sample = sample;
    this.#wait();
  }

  [Symbol.dispose](): void {
    this.#timer?.[Symbol.dispose]();
  }

  #wait(): void {
    this.#timer = this.#clock.setTimer(this.#intervalMs, () => {
      this.points.push(this.#sample());
      if (this.points.length > MAX_POINTS) {
        this.points = this.points.filter((_, index) => index % 2 === 1);
        this.#intervalMs *= 2;
      }
      invariant(this.points.length <= MAX_POINTS, 'a curve stays short');
      this.#wait();
    });
  }
}
