import { sleep } from '../../runtime/clock.js';
import type { Random } from '../../runtime/random.js';
import type { Coordinator } from './coordinator.js';
import type { Machine } from './machine.js';
import type { Network } from './network.js';
import type { StorageNode } from './storage-node.js';
import type { Surroundings } from './surroundings.js';
import type { FaultTerms } from './swarm.js';

/** The longest that a trouble lasts, in ms. */
const LONGEST_MS = 1500;

export interface TroublesOptions {
  terms: FaultTerms;
  network: Network;
  nodes: readonly StorageNode[];
  coordinators: readonly Coordinator[];
  clients: Machine;
  /** How long the commit of an image takes at most, roughly. */
  commitMs: number;
}

/** What goes wrong with machines, disks and the network between them. */
export class Troubles {
  readonly #world: Surroundings;
  readonly #options: TroublesOptions;
  readonly #random: Random;
  readonly #commitCrashes: Promise<void>[] = [];

  constructor(world: Surroundings, options: TroublesOptions) {
    this.#world = world;
    this.#options = options;
    this.#random = world.random.fork();
    for (const coordinator of options.coordinators) {
      coordinator.onFlush = () => this.#crashInCommit(coordinator.machine);
    }
  }

  /** Makes trouble for as long as things may go wrong. When this resolves all of it is over. */
  async make(): Promise<void> {
    const { terms, nodes, coordinators } = this.#options;
    await Promise.all([
      this.#everyNowAndThen(terms.partitionMs, () => this.#partition()),
      this.#everyNowAndThen(terms.serverCrashMs, () => this.#crash(this.#random.pick(nodes).machine)),
      this.#everyNowAndThen(terms.coordinatorCrashMs, () =>
        this.#crash(this.#random.pick(coordinators).machine),
      ),
      this.#everyNowAndThen(terms.stuckDiskMs, () => this.#stickDisk()),
      this.#everyNowAndThen(terms.freezeMs, () => this.#freeze()),
    ]);
    await Promise.all(this.#commitCrashes);
  }

  async #everyNowAndThen(meanMs: number, trouble: () => Promise<void>): Promise<void> {
    if (meanMs === 0) return;
    for (;;) {
      await sleep(this.#world.time, -Math.log(1 - this.#random.unit()) * meanMs);
      if (!this.#world.hasFaults) return;
      await trouble();
    }
  }

  /** One machine is cut off from the others, or cannot be heard by them, or cannot hear them. */
  async #partition(): Promise<void> {
    const { network, nodes, coordinators, clients } = this.#options;
    const machines = [...new Set([...nodes, ...coordinators].map(({ machine }) => machine)), clients];
    const alone = this.#random.pick(machines);
    const { isDeaf, isMute } = this.#random.pick([
      { isDeaf: true, isMute: true },
      { isDeaf: true, isMute: false },
      { isDeaf: false, isMute: true },
    ]);
    this.#world.trace.tell(
      alone.name,
      `is cut off${isDeaf ? ' to hear' : ''}${isMute ? ' to be heard' : ''}`,
    );
    using _ = network.partition((from, to) => (isDeaf && to === alone) || (isMute && from === alone));
    await this.#while();
    this.#world.trace.tell(alone.name, 'is connected again');
  }

  async #crash(machine: Machine): Promise<void> {
    if (!machine.isUp) return;
    const nodes = this.#options.nodes.filter((node) => node.machine === machine);
    const coordinators = this.#options.coordinators.filter((coordinator) => coordinator.machine === machine);
    machine.crash();
    await Promise.all([
      ...nodes.map((node) => node.losePower()),
      ...coordinators.map((coordinator) => coordinator.disk.losePower()),
    ]);
    await this.#while();
    machine.start();
    for (const node of nodes) node.restart();
  }

  /** Most of a backup is copying; here it is hit where it decides what the image holds. */
  #crashInCommit(machine: Machine): void {
    const { terms, commitMs } = this.#options;
    if (!this.#world.hasFaults || !this.#random.chance(terms.commitCrashShare)) return;
    const crash = async (): Promise<void> => {
      await sleep(this.#world.time, this.#random.unit() * commitMs);
      if (this.#world.hasFaults) await this.#crash(machine);
    };
    this.#commitCrashes.push(crash());
  }

  async #freeze(): Promise<void> {
    const { machine } = this.#random.pick([...this.#options.nodes, ...this.#options.coordinators]);
    machine.freeze();
    await this.#while();
    machine.thaw();
  }

  async #stickDisk(): Promise<void> {
    const disk = this.#random.pick([...this.#options.nodes, ...this.#options.coordinators]).disk;
    disk.stick();
    await this.#while();
    disk.unstick();
  }

  #while(): Promise<void> {
    return sleep(this.#world.time, this.#random.unit() * LONGEST_MS);
  }
}
