import { CofferdamError } from '../runtime/errors.js';
import type { Random } from '../runtime/random.js';
import type { Machine, Run } from './machine.js';
import type { NetworkTerms } from './swarm.js';
import type { Surroundings } from './surroundings.js';

/** How long it takes at most until a lost message is noticed as a broken connection, in ms. */
const NOTICE_MS = 2000;

/** How late a message may be that is held up on its way, in ms. */
const HELD_UP_MS = 5000;

export interface CallOptions {
  /** How long the caller waits for the answer, on its own clock, in ms. */
  patienceMs?: number;
  /**
   * Whether the call belongs to a connection: then it arrives at most once and only at the run of the machine that it was
   * sent to. Other calls may arrive twice, or at a later run.
   */
  isConnected?: boolean;
}

/** Messages between machines: each takes its own time, so they overtake one another, and some are lost or doubled. */
export class Network {
  readonly #world: Surroundings;
  readonly #random: Random;
  readonly #terms: NetworkTerms;
  readonly #partitions = new Set<(from: Machine, to: Machine) => boolean>();

  constructor(world: Surroundings, terms: NetworkTerms) {
    this.#world = world;
    this.#random = world.random.fork();
    this.#terms = terms;
  }

  /** Nothing passes between machines on different sides until the partition is disposed of. */
  partition(isCut: (from: Machine, to: Machine) => boolean): Disposable {
    this.#partitions.add(isCut);
    return { [Symbol.dispose]: () => void this.#partitions.delete(isCut) };
  }

  /**
   * A request and its answer. What it does, it may do though the caller never hears of it. A caller whose machine has
   * crashed never hears anything again.
   *
   * @throws CofferdamError CONNECTION_LOST if no answer came; whatever the request throws.
   */
  call<T>(
    from: Run,
    to: Machine,
    label: string,
    request: () => Promise<T>,
    options: CallOptions = {},
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      if (from.isOver) return;
      const held: Disposable[] = [];
      const settle = (how: () => void): void => {
        for (const one of held) one[Symbol.dispose]();
        if (!from.isOver) how();
      };
      const lose = (why: string): void =>
        settle(() => reject(new CofferdamError('CONNECTION_LOST', `${label} to ${to.name}: ${why}`)));
      const noticeLoss = (): void => {
        held.push(
          this.#world.time.setTimer(this.#random.unit() * NOTICE_MS, () => lose('the connection broke')),
        );
      };
      const { present } = to;
      const arrive = (): void => {
        const at = to.present;
        if (options.isConnected === true && at !== present) return noticeLoss();
        const answer = (how: () => void): void => {
          if (at.isOver) noticeLoss();
          else this.#send(to, from.machine, `answer to ${label}`, noticeLoss, () => settle(how));
        };
        void Promise.allSettled([request()]).then(([outcome]) =>
          answer(() =>
            outcome.status === 'fulfilled' ? resolve(outcome.value) : reject(outcome.reason as Error),
          ),
        );
      };
      const { patienceMs } = options;
      if (patienceMs !== undefined) {
        held.push(from.machine.clock.setTimer(patienceMs, () => lose(`no answer within ${patienceMs} ms`)));
      }
      held.push(present.onEnd(noticeLoss));
      this.#send(from.machine, to, label, noticeLoss, arrive);
      if (options.isConnected !== true && this.#happens(this.#terms.duplication)) {
        this.#send(from.machine, to, `${label}, again`, () => {}, arrive);
      }
    });
  }

  #send(from: Machine, to: Machine, label: string, onLoss: () => void, deliver: () => void): void {
    const { trace, time } = this.#world;
    if (this.#happens(this.#terms.loss)) {
      trace.tell(from.name, `to ${to.name}: ${label}: LOST`);
      return onLoss();
    }
    time.setTimer(this.#latencyMs(), () => {
      const isStopped = !to.isUp || this.#isCut(from, to);
      trace.tell(from.name, `to ${to.name}: ${label}${isStopped ? ': DROPPED' : ''}`);
      if (isStopped) onLoss();
      else deliver();
    });
  }

  #isCut(from: Machine, to: Machine): boolean {
    return [...this.#partitions].some((isCut) => isCut(from, to));
  }

  #happens(share: number): boolean {
    return this.#world.hasFaults && share > 0 && this.#random.chance(share);
  }

  #latencyMs(): number {
    const { latencyMs, heldUp } = this.#terms;
    if (this.#happens(heldUp)) return this.#random.unit() * HELD_UP_MS;
    // An exponential tail on a fixed part, as switches and schedulers make it.
    return latencyMs * (0.5 - 0.5 * Math.log(1 - this.#random.unit()));
  }
}
