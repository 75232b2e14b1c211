import { GenerationCopier } from '#src/backup/copier';
import type { CopyContext } from '#src/backup/copy-context';
import type { GenerationWriter } from '#src/backup/image/image';
import { Pacer } from '#src/backup/pacer';
import type { JobPool } from '#src/backup/pool';
import { Progress } from '#src/backup/progress';
import type { StrategyRun } from '#src/backup/strategies';
import { BlockState } from '#src/core/core';
import type { BlockDevice } from '#src/devices/block-device';
import type { Clock } from '#src/runtime/clock';
import { CofferdamError } from '#src/runtime/errors';
import { SECTOR_BYTES } from '#src/runtime/sizes';
import type {
  CutConfirmation,
  CutRequest,
  CutTicket,
  ReleaseAnswer,
  ServerControl,
} from '#src/servers/control';
import { StorageServer } from '#src/servers/server';
import { INITIAL, readContents, type Contents } from '#src/witness/contents';
import { History } from '#src/witness/history';
import { judge } from '#src/witness/judge';
import { stampedSectors } from '#src/witness/stamp';
import type { Verdict } from '#src/witness/verdict';
import type { Step, World } from './explorer.js';
import { SmallDevice } from './small-device.js';

export const BLOCK = 4096;

export type StepKind =
  /** A cut's message reaches its server. */
  | 'cut'
  /** A release reaches its server. */
  | 'release'
  /** A client sends a write, and it reaches its server. */
  | 'send'
  /** A device carries out a write that the server passed on to it, and answers. */
  | 'write'
  /** A device reads what copy-before-write asked for, and answers. */
  | 'preserve'
  /** A device does what the copier asked for, or a part of it. */
  | 'copy'
  /** The lease of a barrier runs out. */
  | 'lease'
  /** The power of a server goes out and comes back. */
  | 'power';

export interface SmallStep extends Step {
  readonly kind: StepKind;
  /** At which everything happens that this step does. */
  readonly server: number;
  /** It may be the first of its copy's messages to arrive, which is when the copy counts as requested. */
  readonly mayRequest?: boolean;
}

/** Where a write goes. No two of a world go to the same sector. */
export interface Place {
  server: number;
  sector: number;
  /** Default 1. */
  sectors?: number;
}

export interface Plan {
  servers: number;
  /** What each client writes. It sends each write only when it knows how the one before it ended. */
  clients: readonly (readonly Place[])[];
  /** What makes the copy: a strategy of the product, or a wrong one. */
  copy: (run: StrategyRun) => Promise<unknown>;
  /** Size of each device. Default 1. */
  blocks?: number;
  /** A device's answer to the copier comes some time after it was looked up. Default: at once. */
  slowReads?: boolean;
  /** The server whose lease may run out at any time. Elsewhere leases last until all is over. */
  leaseAt?: number;
  /** The server whose power may be cut, once, at any time. */
  powerCutAt?: number;
  /** Puts something in front of each server that does not do as it should. */
  disguise?: (server: ServerControl, device: BlockDevice) => ServerControl;
}

export interface Outcome {
  /** The judgement of the copy; undefined if there is none, because it failed. */
  verdict: Verdict | undefined;
  /** Which writes the copy holds, or the code of the error that it failed with: the same for orders of one class. */
  copy: string;
}

type Possible = Map<string, { step: SmallStep; happen: () => void }>;

/**
 * Whether the order of two steps can matter. It does at one server. Elsewhere only for the judge, who looks at nothing
 * but whether a write was acknowledged before another was sent, or before the copy was requested; acknowledgements come
 * only in a `write` step.
 */
export function dependent(one: SmallStep, other: SmallStep): boolean {
  if (one.server === other.server) return true;
  return bearsOn(one, other) || bearsOn(other, one);
}

function bearsOn(one: SmallStep, other: SmallStep): boolean {
  return one.kind === 'write' && (other.kind === 'send' || other.mayRequest === true);
}

/**
 * A group of servers with their clients and a coordinator, all of them the product's own code, in which messages, devices,
 * leases and power wait for an explorer to choose what happens next.
 *
 * What is not a step, and why nothing is missed:
 *
 * - *A write's way to its server.* The judge asks more of a copy the later a write was sent, and nobody sees it under way.
 *   So it is sent at the latest possible moment.
 * - *An acknowledgement's way back*, and the time between a device's change and its answer. The judge asks more the earlier a
 *   write is acknowledged, and the client is free to wait before its next one. A drain that ends earlier is a confirmation
 *   that takes longer.
 * - *A confirmation's way back.* The coordinator does nothing until the last is there, so a late one is the same as late
 *   releases. The wrong coordinators, too, do no more with a confirmation than to send releases.
 * - *A release's answer on its way back.* The coordinator goes on to read or to send the next cut: a late answer is the same
 *   as those being late.
 * - *The time that a device takes to read.* Without slow reads it looks its bytes up when it answers. Then no change comes
 *   between the copier's read and its look at what is preserved, so it is slow reads that show that the look comes
 *   last. What copy-before-write reads, nobody may change meanwhile: who does so is seen all the better the later it is
 *   looked up.
 * - *The request.* The judge asks more the later the copy was requested: it is with the first cut that reaches its server.
 * - *What comes after the copy has ended.* It cannot change the copy any more. Nor can it change the judgement: what the
 *   copy includes had been sent by then, so only what was acknowledged before counts. It is played to its end in one
 *   order, to see that all writes succeed.
 * - *The coordinator's timers.* They never fire: a stall budget that is spent is the subject of other tests.
 */
export class SmallWorld implements World<SmallStep, Outcome> {
  readonly #plan: Plan;
  readonly #possible: Possible = new Map();
  readonly #lastingLeases: Possible = new Map();
  readonly #history: History;
  readonly #devices: SmallDevice[];
  readonly #servers: StorageServer[];
  readonly #copies: Uint8Array[];
  readonly #counts = new Map<string, number>();
  readonly #failedWrites: { server: number; error: unknown }[] = [];
  #clientsDone = 0;
  #ended: { error: unknown } | undefined;

  private constructor(plan: Plan) {
    this.#plan = plan;
    const sizeBytes = (plan.blocks ?? 1) * BLOCK;
    const ids = Array.from({ length: plan.servers }, (_, index) => `s${index}`);
    const areas = ids.map((id) => ({ id, areaOffsetBytes: 0, areaLengthBytes: sizeBytes }));
    this.#history = new History({ run: 1, seed: 0, areas });
    this.#copies = ids.map(() => new Uint8Array(sizeBytes));
    this.#devices = ids.map(
      (id, server) =>
        new SmallDevice(id, new Uint8Array(sizeBytes), {
          step: (kind, label) => this.#step({ kind, server, label: `${kind} ${id} ${label}` }),
          slowReads: plan.slowReads ?? false,
        }),
    );
    this.#servers = this.#devices.map(
      (device, index) => new StorageServer({ id: device.name, device, clock: this.#leaseClock(index) }),
    );
  }

  static async begin(plan: Plan): Promise<SmallWorld> {
    const world = new SmallWorld(plan);
    world.#startCopy();
    for (const [writer, places] of plan.clients.entries()) void world.#runClient(writer, places);
    world.#offerPowerCut();
    await everythingDone();
    return world;
  }

  get isOver(): boolean {
    return this.#ended !== undefined;
  }

  possible(): readonly SmallStep[] {
    return [...this.#possible.values()].map(({ step }) => step);
  }

  async happen(label: string): Promise<void> {
    const entry = this.#possible.get(label);
    if (!entry) throw new Error(`the world does not repeat itself: ${label} is not possible`);
    this.#possible.delete(label);
    entry.happen();
    await everythingDone();
  }

  async finish(): Promise<Outcome> {
    const outcome = await this.#outcome();
    await this.#playToTheEnd();
    await this.#checkClients();
    await this.#checkServers();
    return outcome;
  }

  #startCopy(): void {
    const { disguise } = this.#plan;
    const servers = this.#servers.map((server, index) => {
      const device = this.#devices[index];
      return this.#distant(disguise && device ? disguise(server, device) : server, index);
    });
    void this.#runCopy({
      servers,
      copier: new GenerationCopier(copyContext(this.#copies)),
      clock: stillClock,
      blockSizeBytes: BLOCK,
      maxStallMs: 1000,
      signal: new AbortController().signal,
    });
  }

  async #runCopy(run: StrategyRun): Promise<void> {
    try {
      await this.#plan.copy(run);
      this.#history.completeCopy(0);
      this.#ended = { error: undefined };
    } catch (error) {
      this.#ended = { error };
    }
  }

  async #runClient(writer: number, places: readonly Place[]): Promise<void> {
    for (const [index, { server, sector, sectors = 1 }] of places.entries()) {
      await this.#step({ kind: 'send', server, label: `send ${writer}.${index} to s${server}` });
      const sequence = this.#history.invoke(writer, server, sector, sectors);
      const bytes = stampedSectors({ run: 1, sector, device: server, writer, sequence }, sectors);
      try {
        await this.#servers[server]?.client.write(sector * SECTOR_BYTES, bytes);
        this.#history.ack(sequence);
      } catch (error) {
        this.#failedWrites.push({ server, error });
      }
    }
    this.#clientsDone++;
  }

  #offerPowerCut(): void {
    const server = this.#plan.powerCutAt;
    if (server === undefined) return;
    void this.#step({ kind: 'power', server, label: `power cut at s${server}` }).then(() =>
      this.#servers[server]?.powerCut({ seed: 1 }),
    );
  }

  /** The server as a coordinator sees it, which has to send it messages. */
  #distant(server: ServerControl, index: number): ServerControl {
    const message = (kind: 'cut' | 'release'): Promise<void> => {
      const mayRequest = kind === 'cut' && this.#history.copies.length === 0;
      const label = this.#numbered(`${kind} ${server.id}`);
      return this.#step({ kind, server: index, label, mayRequest });
    };
    return {
      id: server.id,
      sizeBytes: server.sizeBytes,
      identities: server.identities,
      status: () => server.status(),
      renew: (ticket, leaseMs) => server.renew(ticket, leaseMs),
      stopTracking: (epoch) => server.stopTracking(epoch),
      cut: async (request: CutRequest): Promise<CutConfirmation> => {
        await message('cut');
        if (this.#history.copies.length === 0) this.#history.requestCopy();
        return await server.cut(request);
      },
      release: async (ticket: CutTicket): Promise<ReleaseAnswer> => {
        await message('release');
        return await server.release(ticket);
      },
    };
  }

  /** A clock on which a lease runs out when the explorer says so. */
  #leaseClock(server: number): Clock {
    return {
      nowMs: () => 0,
      setTimer: (_delayMs, action) => {
        const label = this.#numbered(`lease of s${server}`);
        const leases = server === this.#plan.leaseAt ? this.#possible : this.#lastingLeases;
        leases.set(label, { step: { kind: 'lease', server, label }, happen: action });
        return { [Symbol.dispose]: () => void leases.delete(label) };
      },
    };
  }

  #step(step: SmallStep): Promise<void> {
    if (this.#possible.has(step.label)) throw new Error(`two steps are called ${step.label}`);
    return new Promise((happen) => this.#possible.set(step.label, { step, happen }));
  }

  /** What happens more than once, but never twice at a time, is numbered. */
  #numbered(label: string): string {
    const count = (this.#counts.get(label) ?? 0) + 1;
    this.#counts.set(label, count);
    return `${label} #${count}`;
  }

  async #outcome(): Promise<Outcome> {
    const error = this.#ended?.error;
    if (error instanceof CofferdamError) return { verdict: undefined, copy: error.code };
    if (error !== undefined) throw new Error('the copy failed', { cause: error });
    const contents = await this.#contents(this.#copies);
    const verdict = judge(this.#history, contents, this.#history.windowOf(0));
    return { verdict, copy: describe(contents) };
  }

  async #playToTheEnd(): Promise<void> {
    for (;;) {
      const [next] = this.#possible.keys();
      if (next !== undefined) {
        await this.happen(next);
        continue;
      }
      // A barrier that nobody has lowered by now comes down by its lease.
      const [lease] = this.#lastingLeases;
      if (!lease) return;
      this.#lastingLeases.delete(lease[0]);
      this.#possible.set(...lease);
    }
  }

  async #checkClients(): Promise<void> {
    if (this.#clientsDone !== this.#plan.clients.length) throw new Error('a client waits for ever');
    for (const { server, error } of this.#failedWrites) {
      const hadPowerCut = error instanceof CofferdamError && error.code === 'POWER_CUT';
      if (hadPowerCut && server === this.#plan.powerCutAt) continue;
      throw new Error('a write failed', { cause: error });
    }
    const end = this.#history.eventCount;
    const contents = await this.#contents(this.#devices.map(({ bytes }) => bytes));
    const verdict = judge(this.#history, contents, { from: end, to: end });
    if (!verdict.consistent) throw new Error(`the devices themselves are not as written: ${verdict.reason}`);
  }

  async #checkServers(): Promise<void> {
    for (const server of this.#servers) {
      const { id, barrierUp, inFlight, parked, snapshots } = await server.status();
      if (barrierUp || inFlight > 0 || parked > 0 || snapshots > 0)
        throw new Error(
          `server ${id} is left with something: ${JSON.stringify({ barrierUp, inFlight, parked, snapshots })}`,
        );
    }
  }

  #contents(images: readonly Uint8Array[]): Promise<Contents[]> {
    return Promise.all(
      images.map((bytes, device) => readContents(this.#history, device, new SmallDevice('image', bytes))),
    );
  }
}

/** Which sectors hold a write; each has only one, but that has another number in each order. */
function describe(contents: readonly Contents[]): string {
  const held = contents.flatMap(({ device, holds }) =>
    [...holds].map((sequence, sector) => (sequence === INITIAL ? '' : `s${device}:${sector}`)),
  );
  return held.filter(Boolean).join(' ');
}

/** Resolves when no promise can go on: they all do before an immediate callback is called. */
function everythingDone(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

const stillClock: Clock = { nowMs: () => 0, setTimer: () => ({ [Symbol.dispose]: () => {} }) };

/** What copiers copy with. Blocks go into plain bytes instead of an image: images have tests of their own. */
function copyContext(copies: readonly Uint8Array[]): CopyContext {
  const copyOf = (id: string): Uint8Array => copies[Number(id.slice(1))] ?? new Uint8Array(0);
  const pool: Pick<JobPool, 'workers' | 'copy'> = {
    workers: 1,
    copy: async ({ device }, { source, firstBlock, states }) => {
      if (!('bytes' in source)) throw new Error('a small device has no descriptor');
      copyOf(device).set(source.bytes, firstBlock * BLOCK);
      states.fill(BlockState.Stored);
      return { end: 'done', storedBytes: 0 };
    },
  };
  const writer = {
    imageName: 'image',
    sinkFd: undefined,
    capacityBytes: Infinity,
    cursor: new BigInt64Array(new SharedArrayBuffer(8)),
    blockMapWriter: ({ deviceId }: { deviceId: string }) => ({
      put: async (_leaf: number, { states }: { states: Uint8Array }) => {
        for (const [block, state] of states.entries()) {
          if (state === BlockState.Zero) copyOf(deviceId).fill(0, block * BLOCK, (block + 1) * BLOCK);
        }
      },
      putZeros: async () => void copyOf(deviceId).fill(0),
      seal: async () => null,
    }),
  };
  return {
    pool: pool as JobPool,
    writer: writer as unknown as GenerationWriter,
    algorithm: 'xxh64',
    blockSizeBytes: BLOCK,
    clock: stillClock,
    pacer: new Pacer(stillClock, undefined),
    progress: new Progress(undefined),
    statistics: { storedBytes: 0, zeroBytes: 0, readBytes: 0 },
  };
}
