import type { Strategy } from '../../backup/image/record.js';
import {
  holdStrategy,
  rollingStrategy,
  snapshotStrategy,
  type StrategyRun,
} from '../../backup/strategies.js';
import { CofferdamError } from '../../runtime/errors.js';
import type { Random } from '../../runtime/random.js';
import { VirtualTime } from '../virtual-time.js';
import type { Assumptions } from './assumptions.js';
import { CoordinatorPort, DistantServer } from './distant-server.js';
import { Latency } from './latency.js';
import { LoadedServer, type Load } from './loaded-server.js';
import { TimedCopier } from './timed-copier.js';

/** What one backup did to the clients. */
export interface Trial {
  /** Why it failed, if it did. Clients have waited all the same. */
  failure: CofferdamError | undefined;
  /** How long each write waited that was parked, in ms. */
  parkedMs: number[];
  /** How long each barrier was up, in ms. */
  holdsMs: number[];
  /** Time from the first raise of the cut over all to its last release; undefined if the backup failed. */
  groupStallMs: number | undefined;
  /** How long the backup took. */
  backupMs: number;
}

const strategies = { snapshot: snapshotStrategy, hold: holdStrategy, rolling: rollingStrategy };

/** As good as no budget, which only spares a simulated `hold` the renewals of its leases. */
const NO_BUDGET_MS = Number.MAX_SAFE_INTEGER;

/** What a strategy may fail with when it takes longer than it is allowed to. */
const lateness: readonly string[] = ['STALL_BUDGET_EXCEEDED', 'CUT_ABORTED', 'CUT_VOID'];

/** One backup of so many servers, by the coordinator and the servers that real ones run, in time that is made up. */
export async function runTrial(
  strategy: Strategy,
  serverCount: number,
  assumptions: Assumptions,
  random: Random,
  signal: AbortSignal,
): Promise<Trial> {
  const time = new VirtualTime();
  const trial: Trial = {
    failure: undefined,
    parkedMs: [],
    holdsMs: [],
    groupStallMs: undefined,
    backupMs: 0,
  };
  const load = loadOf(assumptions);
  const port = new CoordinatorPort(time, random, load.wire, assumptions.messageMs);
  const servers = Array.from({ length: serverCount }, (_, index) => {
    const loaded = new LoadedServer(`s${index}`, load, time, random, (waitedMs) => {
      trial.parkedMs.push(waitedMs);
    });
    return new DistantServer(loaded, port, ({ holdMs }) => trial.holdsMs.push(holdMs));
  });
  const run: StrategyRun = {
    servers,
    copier: new TimedCopier(assumptions, time),
    clock: time,
    blockSizeBytes: assumptions.blockSizeBytes,
    maxStallMs: assumptions.maxStallMs ?? (strategy === 'hold' ? NO_BUDGET_MS : undefined),
    signal,
  };
  try {
    const { cut } = await time.run(strategies[strategy](run));
    trial.groupStallMs = cut.group.stallMs;
  } catch (error) {
    if (!(error instanceof CofferdamError && lateness.includes(error.code))) throw error;
    trial.failure = error;
  }
  trial.backupMs = time.nowMs();
  // A backup that failed may have given up waiting for answers; the barriers come down later than it ended.
  await time.run(port.quiet());
  return trial;
}

/** @throws CofferdamError BAD_ARGUMENT if so few clients cannot write so much. */
export function loadOf(assumptions: Assumptions): Load {
  const { rttMs, tail, writeMs, clients, writesPerSecond } = assumptions;
  const wire = new Latency(rttMs / 2, tail);
  const disk = new Latency(writeMs, tail);
  if (writesPerSecond === 0) return { clients: 0, thinkMs: 0, wire, disk };
  const busyMs = disk.meanMs + 2 * wire.meanMs;
  const thinkMs = (clients * 1000) / writesPerSecond - busyMs;
  if (thinkMs >= 0) return { clients, thinkMs, wire, disk };
  const most = Math.floor((clients * 1000) / busyMs);
  throw new CofferdamError(
    'BAD_ARGUMENT',
    `${clients} clients that send one write at a time manage at most ${most} writes a second; ask for fewer writes or for more clients`,
  );
}
