import { sleep, type Clock } from '../../runtime/clock.js';
import type { Random } from '../../runtime/random.js';
import type {
  CutConfirmation,
  CutRequest,
  CutTicket,
  ReleaseAnswer,
  ServerControl,
  ServerStatus,
} from '../../servers/control.js';
import type { Latency } from './latency.js';
import type { LoadedServer } from './loaded-server.js';

/** The coordinator's end of the network: it sends and receives one message after the other. */
export class CoordinatorPort {
  readonly #underWay = new Set<Promise<unknown>>();
  #freeAtMs = 0;

  /** @param messageMs what each message keeps it busy for. */
  constructor(
    readonly clock: Clock,
    private readonly random: Random,
    private readonly wire: Latency,
    private readonly messageMs: number,
  ) {}

  /** When a message that is handed over now arrives, in ms of the clock. */
  arrivalMs(): number {
    return this.#turn() + this.wire.draw(this.random);
  }

  /** A message on its way back; it waits until the coordinator comes to it. */
  async back(): Promise<void> {
    await sleep(this.clock, this.wire.draw(this.random));
    const waitMs = this.#turn() - this.clock.nowMs();
    if (waitMs > 0) await sleep(this.clock, waitMs);
  }

  /** Keeps a call in mind until it has ended. */
  async follow<T>(call: Promise<T>): Promise<T> {
    this.#underWay.add(call);
    try {
      return await call;
    } finally {
      this.#underWay.delete(call);
    }
  }

  /** Resolves when no call is under way. */
  async quiet(): Promise<void> {
    await Promise.allSettled(this.#underWay);
  }

  #turn(): number {
    this.#freeAtMs = Math.max(this.#freeAtMs, this.clock.nowMs()) + this.messageMs;
    return this.#freeAtMs;
  }
}

/**
 * A storage server as a coordinator sees it through a network. The calls of one coordinator to one server arrive in the
 * order in which they were sent, as over one connection.
 */
export class DistantServer implements ServerControl {
  readonly id: string;
  readonly sizeBytes: number;
  readonly identities = [];
  readonly #loaded: LoadedServer;
  readonly #port: CoordinatorPort;
  readonly #onRelease: (answer: ReleaseAnswer) => void;
  #lastArrivalMs = 0;

  /** @param onRelease is told how each barrier was held. */
  constructor(loaded: LoadedServer, port: CoordinatorPort, onRelease: (answer: ReleaseAnswer) => void) {
    this.id = loaded.server.id;
    this.sizeBytes = loaded.server.sizeBytes;
    this.#loaded = loaded;
    this.#port = port;
    this.#onRelease = onRelease;
  }

  status(): Promise<ServerStatus> {
    return this.#call(() => this.#loaded.server.status());
  }

  cut(request: CutRequest): Promise<CutConfirmation> {
    return this.#call(() => {
      this.#loaded.begin();
      return this.#loaded.server.cut(request);
    });
  }

  /** At once: leases are renewed long before they run out, so how long that takes makes no write wait, and there are many. */
  renew(ticket: CutTicket, leaseMs: number): Promise<void> {
    return this.#loaded.server.renew(ticket, leaseMs);
  }

  stopTracking(epoch: number): Promise<void> {
    return this.#call(() => this.#loaded.server.stopTracking(epoch));
  }

  release(ticket: CutTicket): Promise<ReleaseAnswer> {
    return this.#call(async () => {
      const answer = await this.#loaded.server.release(ticket);
      this.#loaded.end();
      this.#onRelease(answer);
      return answer;
    });
  }

  #call<T>(action: () => Promise<T>): Promise<T> {
    return this.#port.follow(this.#thereAndBack(action));
  }

  async #thereAndBack<T>(action: () => Promise<T>): Promise<T> {
    const { clock } = this.#port;
    this.#lastArrivalMs = Math.max(this.#lastArrivalMs, this.#port.arrivalMs());
    await sleep(clock, this.#lastArrivalMs - clock.nowMs());
    try {
      return await action();
    } finally {
      await this.#port.back();
    }
  }
}
