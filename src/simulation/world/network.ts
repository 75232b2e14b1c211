import { CofferdamError } from '../../runtime/errors.js';
import type { Random } from '../../runtime/random.js';
import type { Machine, Run } from './machine.js';
import type { Surroundings } from './surroundings.js';
import type { NetworkTerms } from './swarm.js';

/** How long it takes at most until a lost message is noticed as a broken connection, in ms. */
const NOTICE_MS = 2000;

/** How late a message may be that is held up on its way, in ms. */
const HELD_UP_MS = 5000;

/** Some ways are longer than others: a client may be done with two servers before a message comes to one of them. */
const DISTANCES = [1, 1, 1, 10];

export interface CallOptions {
  /** How long the caller waits for the answer, on its own clock, in ms. */
  patienceMs?: number;
  /**
   * Whether the call belongs to a connection that carries data: then it arrives at most once and only at the run of the
   * machine that it was sent to, and is not told of in the trace. Other calls may arrive twice, or at a later run.
   */
  isConnected?: boolean;
}

interface Message {
  from: Machine;
  to: Machine;
  label: string;
  isQuiet: boolean;
}

/** Messages between machines: each takes its own time, so they overtake one another, and some are lost or doubled. */
export class Network {
  readonly world: Surroundings;
  readonly random: Random;
  readonly #terms: NetworkTerms;
  /** Of each way between two machines, as a factor. */
  readonly #distances = new Map<string, number>();
  readonly #partitions = new Set<(from: Machine, to: Machine) => boolean>();

  constructor(world: Surroundings, terms: NetworkTerms) {
    this.world = world;
    this.random = world.random.fork();
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
  async call<T>(
    from: Run,
    to: Machine,
    label: string,
    request: () => Promise<T>,
    options: CallOptions = {},
  ): Promise<T> {
    const isDoubled = options.isConnected !== true && this.#happens(this.#terms.duplication);
    return await new Call(this, from, to, label, request, options).make(isDoubled);
  }

  send(message: Message, onLoss: () => void, deliver: () => void): void {
    const { from, to } = message;
    if (this.#happens(this.#terms.loss)) {
      this.#note(message, ': LOST');
      return onLoss();
    }
    this.world.time.setTimer(this.#latencyMs(from, to), () => {
      const isStopped = !to.isUp || [...this.#partitions].some((isCut) => isCut(from, to));
      this.#note(message, isStopped ? ': DROPPED' : '');
      if (isStopped) onLoss();
      else to.whenAwake(deliver);
    });
  }

  #note({ from, to, label, isQuiet }: Message, trouble: string): void {
    const { trace } = this.world;
    if (isQuiet && trouble === '') trace.count(`${from.name} ${to.name} ${label}`);
    else trace.tell(from.name, `to ${to.name}: ${label}${trouble}`);
  }

  #happens(share: number): boolean {
    return this.world.hasFaults && share > 0 && this.random.chance(share);
  }

  #latencyMs(from: Machine, to: Machine): number {
    const { latencyMs, heldUp } = this.#terms;
    if (this.#happens(heldUp)) return this.random.unit() * HELD_UP_MS;
    // An exponential tail on a fixed part, as switches and schedulers make it.
    return this.#distance(from, to) * latencyMs * (0.5 - 0.5 * Math.log(1 - this.random.unit()));
  }

  #distance(from: Machine, to: Machine): number {
    const key = `${from.name} to ${to.name}`;
    const distance = this.#distances.get(key) ?? this.random.pick(DISTANCES);
    this.#distances.set(key, distance);
    return distance;
  }
}

/** One call on its way. */
class Call<T> {
  readonly #network: Network;
  readonly #from: Run;
  readonly #to: Machine;
  /** The run that it was sent to. */
  readonly #sentTo: Run;
  readonly #label: string;
  readonly #request: () => Promise<T>;
  readonly #options: CallOptions;
  readonly #held: Disposable[] = [];
  readonly #answered: Promise<T>;
  #resolve: (value: T) => void = () => {};
  #reject: (error: Error) => void = () => {};

  constructor(
    network: Network,
    from: Run,
    to: Machine,
    label: string,
    request: () => Promise<T>,
    options: CallOptions,
  ) {
    this.#network = network;
    this.#from = from;
    this.#to = to;
    this.#sentTo = to.present;
    this.#label = label;
    this.#request = request;
    this.#options = options;
    this.#answered = new Promise((resolve, reject) => ([this.#resolve, this.#reject] = [resolve, reject]));
  }

  make(isDoubled: boolean): Promise<T> {
    if (this.#from.isOver) return this.#answered;
    const { patienceMs } = this.#options;
    if (patienceMs !== undefined) {
      const { clock } = this.#from.machine;
      this.#held.push(clock.setTimer(patienceMs, () => this.#lose(`no answer within ${patienceMs} ms`)));
    }
    this.#held.push(this.#sentTo.onEnd(() => this.#noticeLoss()));
    this.#send(this.#label, () => this.#noticeLoss());
    if (isDoubled) this.#send(`${this.#label}, again`, () => {});
    return this.#answered;
  }

  #send(label: string, onLoss: () => void): void {
    const message = {
      from: this.#from.machine,
      to: this.#to,
      label,
      isQuiet: this.#options.isConnected === true,
    };
    this.#network.send(message, onLoss, () => void this.#arrive());
  }

  async #arrive(): Promise<void> {
    const { present } = this.#to;
    if (this.#options.isConnected === true && present !== this.#sentTo) return this.#noticeLoss();
    const [outcome] = await Promise.allSettled([this.#request()]);
    // A run that is over answers nobody.
    if (present.isOver) return this.#noticeLoss();
    const message = {
      from: this.#to,
      to: this.#from.machine,
      label: `answer to ${this.#label}`,
      isQuiet: this.#options.isConnected === true,
    };
    this.#network.send(
      message,
      () => this.#noticeLoss(),
      () => {
        if (outcome.status === 'fulfilled') this.#settle(() => this.#resolve(outcome.value));
        else this.#settle(() => this.#reject(outcome.reason as Error));
      },
    );
  }

  /** The connection is found to be broken some time later. */
  #noticeLoss(): void {
    const { world, random } = this.#network;
    const delayMs = random.unit() * NOTICE_MS;
    this.#held.push(world.time.setTimer(delayMs, () => this.#lose('the connection broke')));
  }

  #lose(why: string): void {
    const error = new CofferdamError('CONNECTION_LOST', `${this.#label} to ${this.#to.name}: ${why}`);
    this.#settle(() => this.#reject(error));
  }

  /** The first to come settles it, unless nobody is there any more to hear of it. */
  #settle(how: () => void): void {
    for (const one of this.#held) one[Symbol.dispose]();
    if (!this.#from.isOver) how();
  }
}
