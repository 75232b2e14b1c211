import type { Clock } from '../../runtime/clock.js';
import { CofferdamError } from '../../runtime/errors.js';
import { DriftingClock } from '../virtual-time.js';
import { InterceptedDevice } from './intercepted-device.js';
import type { BlockDevice } from '../../devices/block-device.js';
import type { Surroundings } from './surroundings.js';

/**
 * A machine that may crash and start again. What ran on it before goes on in vain: nobody hears of it any more. It may
 * also freeze for a while: its clock goes on, but what is due and what arrives waits until it thaws.
 */
export class Machine {
  readonly name: string;
  /** Goes a little fast or slow. */
  readonly clock: Clock;
  readonly #world: Surroundings;
  readonly #clock: DriftingClock;
  #present: Run;
  /** What waits for the thaw, in order; undefined unless frozen. */
  #frozen: (() => void)[] | undefined;

  /** @param clockRate how many milliseconds of its clock pass in a true one. */
  constructor(world: Surroundings, name: string, clockRate: number) {
    this.#world = world;
    this.name = name;
    const clock = new DriftingClock(world.time, clockRate);
    this.#clock = clock;
    this.clock = {
      nowMs: () => clock.nowMs(),
      setTimer: (delayMs, action) => this.#setTimer(clock, delayMs, action),
    };
    this.#present = new Run(this, 1);
  }

  /** From now on its clock runs as it should. */
  runTrue(): void {
    this.#clock.runTrue();
  }

  get isUp(): boolean {
    return !this.#present.isOver;
  }

  /** Its present run, or the last one while it is down. */
  get present(): Run {
    return this.#present;
  }

  crash(): void {
    if (!this.isUp) return;
    this.#world.trace.tell(this.name, 'crashes');
    this.#frozen = undefined;
    this.#present.end();
  }

  start(): void {
    if (this.isUp) return;
    this.#present = new Run(this, this.#present.number + 1);
    this.#world.trace.tell(this.name, `starts its run ${this.#present.number}`);
  }

  freeze(): void {
    if (!this.isUp || this.#frozen) return;
    this.#world.trace.tell(this.name, 'freezes');
    this.#frozen = [];
  }

  thaw(): void {
    const waiting = this.#frozen;
    if (!waiting) return;
    this.#world.trace.tell(this.name, 'thaws');
    this.#frozen = undefined;
    for (const action of waiting) action();
  }

  /** Does something now, or when the machine thaws. A crash forgets it. */
  whenAwake(action: () => void): void {
    if (this.#frozen) this.#frozen.push(action);
    else action();
  }

  #setTimer(clock: Clock, delayMs: number, action: () => void): Disposable {
    let isDropped = false;
    const timer = clock.setTimer(delayMs, () => this.whenAwake(() => (isDropped ? undefined : action())));
    return {
      [Symbol.dispose]: () => {
        isDropped = true;
        timer[Symbol.dispose]();
      },
    };
  }
}

/** A machine from a start to the next crash. */
export class Run {
  #isOver = false;
  readonly #onEnd = new Set<() => void>();

  /** @param number counted from 1. */
  constructor(
    readonly machine: Machine,
    readonly number: number,
  ) {}

  get isOver(): boolean {
    return this.#isOver;
  }

  /** Such as `b.2`. */
  get name(): string {
    return `${this.machine.name}.${this.number}`;
  }

  end(): void {
    this.#isOver = true;
    const actions = [...this.#onEnd];
    this.#onEnd.clear();
    for (const action of actions) action();
  }

  /** Calls `action` when this run ends, unless that is taken back. */
  onEnd(action: () => void): Disposable {
    this.#onEnd.add(action);
    return { [Symbol.dispose]: () => void this.#onEnd.delete(action) };
  }

  /** A device as this run has it: it is out of reach once the run is over. Closing it leaves the device as it is. */
  attach(device: BlockDevice): BlockDevice {
    const assertPresent = (): void => {
      if (!this.#isOver) return;
      throw new CofferdamError('POWER_CUT', `${this.name} crashed`, { device: device.name });
    };
    return new InterceptedDevice(device, async (_operation, request) => {
      assertPresent();
      const answer = await request();
      assertPresent();
      return answer;
    });
  }
}
