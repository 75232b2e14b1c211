/** Something that may happen next. Its label names it in every run: the same label after the same past is the same step. */
export interface Step {
  readonly label: string;
}

/** A world in which nothing happens by itself. It takes the same course whenever it is led through the same steps. */
export interface World<S extends Step, Outcome> {
  /** What may happen next. A step stays possible until it happens, unless one that it depends on takes it away. */
  possible(): readonly S[];
  /** Makes it happen. Resolves when everything that it causes without another step has happened. */
  happen(label: string): Promise<void>;
  /** Nothing that may still happen makes a difference. */
  readonly isOver: boolean;
  /** Brings the rest to its end in whatever order, checks what must hold and says how it went. */
  finish(): Promise<Outcome>;
}

export interface Exploration<S extends Step, Outcome> {
  begin: () => Promise<World<S, Outcome>>;
  /**
   * False only if the two may change places wherever they follow each other: neither makes the other possible or
   * impossible, and both orders lead to the same state and the same judgement. Symmetric.
   */
  dependent: (one: S, other: S) => boolean;
  onOutcome: (outcome: Outcome, trace: readonly string[]) => void;
  /** Stops the exploration after this many runs; it is then not complete. */
  limitRuns?: number;
}

export interface Explored {
  /** Runs that came to an end: one for each class of interleavings that differ only in the order of independent steps. */
  runs: number;
  /** Runs given up on the way, because all that was left to try there had been seen in another order. */
  repeats: number;
  isComplete: boolean;
}

/** A place on the way where one of several steps was chosen. */
interface Fork<S> {
  chosen: S;
  untried: S[];
  tried: S[];
  /** Possible here, but all that could follow was seen before: see {@link explore}. */
  asleep: readonly S[];
}

/**
 * Leads a world through all orders of its steps, depth first: runs it from the beginning again and again, each time with
 * another sequence of choices. Nothing of the world is copied or compared, so it may consist of any code.
 *
 * Orders that differ only in independent neighbours are one class (a Mazurkiewicz trace), and one run of each class is
 * enough. Sleep sets leave the others out: when all that begins with step `a` has been seen at a fork and `b` is tried
 * next, then `a` sleeps for as long as only steps happen that are independent of it, because to let it happen now would be
 * a class that was seen when `a` came first. Every class is still visited (P. Godefroid, "Partial-Order Methods for the
 * Verification of Concurrent Systems", 1996, chapter 5).
 */
export async function explore<S extends Step, Outcome>(
  exploration: Exploration<S, Outcome>,
): Promise<Explored> {
  const path: Fork<S>[] = [];
  const explored = { runs: 0, repeats: 0, isComplete: false };
  do {
    const outcome = await follow(path, exploration);
    if (outcome === undefined) {
      explored.repeats++;
    } else {
      explored.runs++;
      exploration.onOutcome(
        outcome,
        path.map(({ chosen }) => chosen.label),
      );
    }
    explored.isComplete = !turnToNext(path);
  } while (!explored.isComplete && explored.runs < (exploration.limitRuns ?? Infinity));
  return explored;
}

/** Runs the world along the path and on from its end, and says how it went; undefined if it had gone so before. */
async function follow<S extends Step, Outcome>(
  path: Fork<S>[],
  { begin, dependent }: Exploration<S, Outcome>,
): Promise<Outcome | undefined> {
  const world = await begin();
  let asleep: readonly S[] = [];
  try {
    for (let depth = 0; !world.isOver; depth++) {
      const fork = path[depth] ?? newFork(world.possible(), asleep);
      if (!fork) return undefined;
      path[depth] = fork;
      await world.happen(fork.chosen.label);
      asleep = [...fork.asleep, ...fork.tried].filter((step) => !dependent(step, fork.chosen));
    }
    return await world.finish();
  } catch (cause) {
    const trace = path.map(({ chosen }) => chosen.label).join('; ');
    throw new Error(`${(cause as Error).message}, after: ${trace}`, { cause });
  }
}

function newFork<S extends Step>(possible: readonly S[], asleep: readonly S[]): Fork<S> | undefined {
  if (possible.length === 0) throw new Error('nothing is left that could happen, yet not all has ended');
  const [chosen, ...untried] = possible.filter(({ label }) => asleep.every((step) => step.label !== label));
  return chosen && { chosen, untried, tried: [], asleep };
}

/** Makes the path lead where no run has been; false if there is no such place. */
function turnToNext<S extends Step>(path: Fork<S>[]): boolean {
  for (let fork = path.at(-1); fork; fork = path.at(-1)) {
    const next = fork.untried.shift();
    if (next) {
      fork.tried.push(fork.chosen);
      fork.chosen = next;
      return true;
    }
    path.pop();
  }
  return false;
}
