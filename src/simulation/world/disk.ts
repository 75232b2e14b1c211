import type { BlockDevice } from '../../devices/block-device.js';
import { MemoryDevice } from '../../devices/memory.js';
import { VolatileCacheDevice } from '../../devices/volatile-cache.js';
import { sleep } from '../../runtime/clock.js';
import { CofferdamError } from '../../runtime/errors.js';
import type { Random } from '../../runtime/random.js';
import { InterceptedDevice } from './intercepted-device.js';
import type { Run } from './machine.js';
import type { DiskTerms } from './swarm.js';
import type { Surroundings } from './surroundings.js';

/** As disks do, this one now and then takes many times as long: then what was sent later overtakes it. */
const SLOW_SHARE = 0.05;
const SLOWNESS = 20;

/**
 * A disk: a medium that takes its time, fails now and then and may be stuck for a while, under a volatile cache. It
 * outlives the crashes of its machine.
 */
export class Disk {
  /** What is there after a power cut, and can be looked at without taking time. */
  readonly medium: MemoryDevice;
  readonly cache: VolatileCacheDevice;
  readonly #world: Surroundings;
  readonly #random: Random;
  readonly #terms: DiskTerms;
  #stuck: Promise<void> | undefined;
  #unstick = (): void => {};
  #isLosingPower = false;

  constructor(world: Surroundings, name: string, sizeBytes: number, terms: DiskTerms) {
    this.#world = world;
    this.#random = world.random.fork();
    this.#terms = terms;
    this.medium = new MemoryDevice(sizeBytes, { name });
    this.cache = new VolatileCacheDevice(
      new InterceptedDevice(this.medium, (operation, request) => this.#serve(operation, request)),
    );
  }

  /** The disk as a run of its machine has it. The way there and back takes time too, also to what the cache answers. */
  attachTo(run: Run): BlockDevice {
    return new InterceptedDevice(run.attach(this.cache), async (_operation, request) => {
      await this.#wait();
      const answer = await request();
      await this.#wait();
      return answer;
    });
  }

  /** Whatever reaches the medium waits until {@link unstick}. */
  stick(): void {
    if (this.#stuck) return;
    this.#world.trace.tell(this.medium.name, 'is stuck');
    this.#stuck = new Promise((resolve) => (this.#unstick = resolve));
  }

  unstick(): void {
    if (this.#stuck) this.#world.trace.tell(this.medium.name, 'goes on');
    this.#stuck = undefined;
    this.#unstick();
  }

  /** Loses a random part of what was not flushed. Whoever uses the disk must have been cut off from it before. */
  async losePower(): Promise<void> {
    this.unstick();
    // What survives was on the medium before: it does not fail to get there now.
    this.#isLosingPower = true;
    await this.cache.powerCut({ seed: this.#random.uint32() });
    this.#isLosingPower = false;
  }

  /** The medium answers some time after it acted, and acts some time after it was asked. */
  async #serve<T>(operation: string, request: () => Promise<T>): Promise<T> {
    await this.#wait();
    await this.#stuck;
    const mayFail = this.#world.hasFaults && !this.#isLosingPower;
    if (mayFail && this.#random.chance(this.#terms.errorShare)) {
      throw new CofferdamError('INJECTED_FAULT', `${this.medium.name}: ${operation} failed`, {
        device: this.medium.name,
      });
    }
    const answer = await request();
    await this.#wait();
    return answer;
  }

  async #wait(): Promise<void> {
    const { latencyMs } = this.#terms;
    if (latencyMs === 0) return;
    const slowness = this.#random.chance(SLOW_SHARE) ? SLOWNESS : 1;
    await sleep(this.#world.time, this.#random.unit() * slowness * latencyMs);
  }
}
