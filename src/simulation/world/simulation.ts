import type { Core } from '../../core/core.js';
import { sleep } from '../../runtime/clock.js';
import { isCofferdamError, messageOf, type ErrorCode } from '../../runtime/errors.js';
import { Random } from '../../runtime/random.js';
import { MiB } from '../../runtime/sizes.js';
import type { ServerControl } from '../../servers/control.js';
import { RemoteServer } from '../../service/remote-server.js';
import { History } from '../../witness/history.js';
import { judgeCopy } from '../../witness/judge.js';
import { describeVerdict, type Inconsistent } from '../../witness/verdict.js';
import { Workload } from '../../witness/workload.js';
import { ClientDevice } from './client-device.js';
import { Coordinator } from './coordinator.js';
import { CutWatch } from './cut-watch.js';
import { LocalServer } from './local-server.js';
import { Machine, type Run } from './machine.js';
import { Moments } from './moments.js';
import { Network } from './network.js';
import { SimulatedProcess } from './simulated-process.js';
import { StorageNode } from './storage-node.js';
import type { Surroundings } from './surroundings.js';
import type { SwarmConfig } from './swarm.js';
import { Trace } from './trace.js';
import { Troubles } from './troubles.js';
import { EscapedErrors } from '../escaped-errors.js';
import { VirtualTime } from '../virtual-time.js';

/** Every lease and every message held up is over after this long, by the slowest clock. */
const CALM_MS = 60_000;
/** How often a backup is tried when nothing goes wrong any more. One must succeed. */
const CALM_TRIES = 4;
/** More events than this are no honest run. */
const LIMIT_EVENTS = 3_000_000;

export interface Violation {
  invariant: string;
  what: string;
}

export interface SimulationResult {
  /** Empty if all invariants held. */
  violations: Violation[];
  /** Two runs with the same hash went the same way. */
  traceHash: string;
  trace: readonly string[];
  /** The part of the trace that is about the violations; its end if there are none. */
  excerpt: readonly string[];
  events: number;
  simulatedMs: number;
  /** Acknowledged. */
  writes: number;
  /** Generations committed. */
  generations: number;
  /** How backups that failed did so, by error code, with how many did. */
  failures: Record<string, number>;
}

/** Runs one world to its end. The same seed and configuration give the same run. */
export async function simulate(seed: number, config: SwarmConfig, core: Core): Promise<SimulationResult> {
  return await new Simulation(seed, config, core).run();
}

/**
 * A world in which clients write, coordinators make backups, and things go wrong for a while, until all is calm.
 *
 * The invariants and where they are looked at:
 * 1. Every generation passes the judge, its instant within the request: {@link Shelf}.
 * 2. No acknowledged write is lost or reordered, and no request fails because of a backup: {@link ClientDevice}, the
 *    workload's reads, and `#checkDevices`.
 * 3. Every barrier comes down within its lease: {@link CutWatch}.
 * 4. What is committed is durable and restores byte for byte ever after: {@link Shelf}.
 * 5. In a run of a server an epoch belongs to one coordinator: {@link CutWatch}.
 * 6. Once nothing goes wrong any more a backup succeeds: `#calmDown`. Where nothing ever goes wrong, all of them do.
 * 7. Of backups that have ended, however they did, nothing is left with the servers: `#checkServers`.
 * 8. The world comes to its end, and no error escapes: `run`.
 */
class Simulation implements Surroundings {
  readonly time = new VirtualTime();
  readonly trace = new Trace(this.time);
  readonly random: Random;
  readonly core: Core;
  readonly #config: SwarmConfig;
  readonly #violations: Violation[] = [];
  readonly #network: Network;
  readonly #watch = new CutWatch(this);
  readonly #clients: Machine;
  readonly #machines: Machine[] = [];
  readonly #nodes: StorageNode[];
  readonly #coordinators: Coordinator[];
  readonly #history: History;
  readonly #moments = new Moments(this);
  readonly #workload: Workload;
  #hasFaults = true;

  constructor(seed: number, config: SwarmConfig, core: Core) {
    this.random = new Random(seed);
    this.core = core;
    this.#config = config;
    this.#network = new Network(this, config.network);
    this.#clients = this.#machine('clients');
    const ids = Array.from({ length: config.servers }, (_, i) => String.fromCodePoint(97 + i));
    const shared = config.layout === 'together' ? this.#machine('process') : undefined;
    this.#nodes = ids.map(
      (id) => new StorageNode(this, config, this.#watch, id, shared ?? this.#machine(id)),
    );
    const header = {
      run: seed,
      seed: this.random.uint32(),
      areas: ids.map((id) => ({ id, areaOffsetBytes: 0, areaLengthBytes: config.deviceBytes })),
    };
    this.#history = new History(header, (event) => this.#moments.note(event));
    this.#coordinators = Array.from({ length: config.coordinators }, (_, i) => {
      const name = `backup-${i + 1}`;
      return new Coordinator(this, {
        config,
        name,
        machine: shared ?? this.#machine(name),
        history: this.#history,
        serversFor: (run) => this.#serversFor(run),
      });
    });
    const devices = this.#nodes.map((node) => [node.id, this.#clientDevice(node)] as const);
    this.#workload = new Workload(this.#history, new Map(devices), this.time);
  }

  get hasFaults(): boolean {
    return this.#hasFaults;
  }

  violated(invariant: string, what: string): void {
    this.trace.mark('VIOLATION', `${invariant}: ${what.split('\n')[0]}`);
    this.#violations.push({ invariant, what });
  }

  inconsistent(invariant: string, what: string, verdict: Inconsistent): void {
    const moments = this.#moments.show(verdict);
    this.violated(invariant, [`${what}: ${describeVerdict(verdict)}`, ...moments].join('\n'));
  }

  async run(): Promise<SimulationResult> {
    using escaped = new EscapedErrors();
    try {
      await this.time.run(Promise.race([this.#live(), escaped.first]), LIMIT_EVENTS);
    } catch (error) {
      this.violated('no hang, no crash', describeCrash(error));
    }
    const { statistics } = this.#workload;
    if (statistics.violations > 0)
      this.violated('clients', statistics.firstViolation ?? 'a read found something else');
    this.trace.tell('end', `${statistics.writes} writes, ${this.#history.eventCount} events of clients`);
    const shelves = this.#coordinators.flatMap((coordinator) => coordinator.shelves);
    return {
      violations: this.#violations,
      trace: this.trace.lines,
      excerpt: this.trace.excerpt,
      traceHash: this.trace.end(),
      events: this.time.events,
      simulatedMs: this.time.nowMs(),
      writes: statistics.writes,
      generations: shelves.reduce((sum, shelf) => sum + shelf.generations, 0),
      failures: Object.fromEntries(this.#failures()),
    };
  }

  async #live(): Promise<void> {
    const troubles = new Troubles(this, {
      terms: this.#config.faults,
      network: this.#network,
      nodes: this.#nodes,
      coordinators: this.#coordinators,
      clients: this.#clients,
      commitMs: 10 * this.#config.imageDisk.latencyMs,
    });
    await this.#whileClientsWrite(async () => {
      const going = [troubles.make(), ...this.#coordinators.map((coordinator) => coordinator.keepOn())];
      await sleep(this.time, this.#config.durationMs);
      this.trace.tell('world', 'calms down');
      this.#hasFaults = false;
      await Promise.all(going);
    });
    await sleep(this.time, CALM_MS);
    // Leases are renewed often enough for clocks that differ by a factor of almost three; some differ by more.
    for (const machine of this.#machines) machine.runTrue();
    await this.#whileClientsWrite(() => this.#calmDown());
    await sleep(this.time, CALM_MS);
    await this.#checkServers();
    await this.#checkDevices();
    for (const { shelves } of this.#coordinators) for (const shelf of shelves) await shelf.checkAll();
  }

  async #whileClientsWrite(action: () => Promise<void>): Promise<void> {
    const { writers, writesPerSecond } = this.#config;
    const stop = new AbortController();
    const writing = this.#workload.run({ writers, writesPerSecond, timeoutMs: 120_000, signal: stop.signal });
    try {
      await action();
    } finally {
      stop.abort();
      await writing;
    }
  }

  /** Invariant 6. */
  async #calmDown(): Promise<void> {
    for (const coordinator of this.#coordinators) {
      const failures: string[] = [];
      for (let tries = 1; ; tries++) {
        const attempt = await coordinator.attempt();
        if (attempt.kind === 'committed') break;
        if (attempt.kind === 'crashed') return this.violated('liveness', 'a machine crashed in calm times');
        failures.push(messageOf(attempt.error));
        if (isCofferdamError(attempt.error, 'TARGET_FULL')) coordinator.takeNewImage(256 * MiB);
        // A store of pre-images may be too small for any backup beside these clients; that is no hang.
        else if (isCofferdamError(attempt.error, 'SNAPSHOT_BROKEN') && this.#config.preImageBytes < MiB)
          break;
        if (tries === CALM_TRIES) {
          return this.violated(
            'liveness',
            `${coordinator.name} cannot make a backup: ${failures.join('; ')}`,
          );
        }
      }
    }
  }

  /** Invariant 2: as if a copy were made now, which must hold all that was ever acknowledged. */
  async #checkDevices(): Promise<void> {
    const copy = this.#history.requestCopy();
    this.#history.completeCopy(copy);
    const devices = new Map(this.#nodes.map(({ id, server }) => [id, server.client]));
    const { group } = await judgeCopy(this.#history, devices, this.#history.windowOf(copy));
    if (!group.consistent) this.inconsistent('clients', 'the devices at the end', group);
  }

  /** Invariant 7: not a barrier, not a parked write, not a snapshot is left once all backups and leases have ended. */
  async #checkServers(): Promise<void> {
    for (const { server } of this.#nodes) {
      const { id, barrierUp, inFlight, parked, snapshots } = await server.status();
      if (barrierUp || inFlight > 0 || parked > 0 || snapshots > 0) {
        const left = JSON.stringify({ barrierUp, inFlight, parked, snapshots });
        this.violated('leftovers', `server ${id}: ${left}`);
      }
    }
  }

  #serversFor(run: Run): ServerControl[] {
    return this.#nodes.map((node) => {
      if (this.#config.layout === 'together') return new LocalServer(node, this.#watch);
      const process = new SimulatedProcess(this.#network, run, node);
      return new RemoteServer(process, { id: node.id, sizeBytes: this.#config.deviceBytes, identities: [] });
    });
  }

  #clientDevice(node: StorageNode): ClientDevice {
    const { network, faults, serverDisk } = this.#config;
    const hasCrashes =
      faults.serverCrashMs > 0 || faults.coordinatorCrashMs > 0 || faults.commitCrashShare > 0;
    const losesMessages = network.loss > 0 || faults.partitionMs > 0;
    const mayFailWith: ErrorCode[] = [];
    if (hasCrashes || losesMessages) mayFailWith.push('CONNECTION_LOST');
    if (serverDisk.errorShare > 0) mayFailWith.push('INJECTED_FAULT');
    return new ClientDevice(this, {
      network: this.#network,
      machine: this.#clients,
      node,
      isDurable: hasCrashes,
      mayFailWith,
    });
  }

  #machine(name: string): Machine {
    const machine = new Machine(this, name, 1 + (this.random.unit() * 2 - 1) * this.#config.drift);
    this.#machines.push(machine);
    return machine;
  }

  #failures(): Map<string, number> {
    const counts = new Map<string, number>();
    for (const { failures } of this.#coordinators) {
      for (const code of failures) counts.set(code, (counts.get(code) ?? 0) + 1);
    }
    return counts;
  }
}

/** Where in the program an error comes from is told only by its stack. */
function describeCrash(error: unknown): string {
  if (isCofferdamError(error, 'SIMULATION_FAILED') || !(error instanceof Error)) return messageOf(error);
  return error.stack ?? String(error);
}
