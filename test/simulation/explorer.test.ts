import { describe, expect, test } from 'vitest';
import { explore, type Explored, type Step, type World } from './explorer.js';

interface ToyStep extends Step {
  readonly process: number;
  /** What it reads or writes. */
  readonly cell: string;
}

/** Processes that each read a cell and then write one more than they read, some times. */
class Counters implements World<ToyStep, string> {
  readonly #cells = new Map<string, number>();
  readonly #done: number[];
  readonly #read: number[];

  constructor(
    readonly cells: readonly string[],
    readonly times: readonly number[],
  ) {
    this.#done = times.map(() => 0);
    this.#read = times.map(() => 0);
  }

  get isOver(): boolean {
    return this.possible().length === 0;
  }

  possible(): readonly ToyStep[] {
    return this.times.flatMap((times, process) => {
      const done = this.#done[process] ?? 0;
      if (done === 2 * times) return [];
      return [{ label: `${process}.${done}`, process, cell: this.cells[process] ?? '' }];
    });
  }

  async happen(label: string): Promise<void> {
    const step = this.possible().find((one) => one.label === label);
    if (!step) throw new Error(`${label} is not possible`);
    const { process, cell } = step;
    const done = this.#done[process] ?? 0;
    if (done % 2 === 0) this.#read[process] = this.#cells.get(cell) ?? 0;
    else this.#cells.set(cell, (this.#read[process] ?? 0) + 1);
    this.#done[process] = done + 1;
  }

  async finish(): Promise<string> {
    return [...this.#cells]
      .map(([cell, value]) => `${cell}=${value}`)
      .sort()
      .join(' ');
  }
}

async function count(
  cells: readonly string[],
  times: readonly number[],
  dependent: (one: ToyStep, other: ToyStep) => boolean,
): Promise<Explored & { ends: string[]; traces: Set<string> }> {
  const ends = new Set<string>();
  const traces = new Set<string>();
  const explored = await explore({
    begin: async () => new Counters(cells, times),
    dependent,
    onOutcome(end, trace) {
      ends.add(end);
      traces.add(trace.join(' '));
    },
  });
  return { ...explored, ends: [...ends].sort(), traces };
}

const always = (): boolean => true;
const sameCell = (one: ToyStep, other: ToyStep): boolean =>
  one.process === other.process || one.cell === other.cell;

describe('explore', () => {
  test('takes every order of the steps once', async () => {
    const explored = await count(['a', 'a', 'b'], [1, 2, 1], always);
    // 8! / (2! 4! 2!)
    expect(explored).toMatchObject({ runs: 420, repeats: 0, isComplete: true });
    expect(explored.traces.size).toBe(420);
    expect(explored.ends).toEqual(['a=1 b=1', 'a=2 b=1', 'a=3 b=1']);
  });

  test('takes one order of each class where steps are independent', async () => {
    const explored = await count(['a', 'a', 'b'], [1, 2, 1], sameCell);
    // 6! / (2! 4!): where the third process comes makes no difference.
    expect(explored).toMatchObject({ runs: 15, isComplete: true });
    expect(explored.ends).toEqual(['a=1 b=1', 'a=2 b=1', 'a=3 b=1']);
    expect((await count(['a', 'b', 'c'], [2, 2, 2], sameCell)).runs).toBe(1);
  });

  test('stops where it is told to', async () => {
    let outcomes = 0;
    const begin = async (): Promise<Counters> => new Counters(['a', 'a'], [2, 2]);
    const onOutcome = (): void => void outcomes++;
    const explored = await explore({ begin, dependent: always, onOutcome, limitRuns: 10 });
    expect(explored).toEqual({ runs: 10, repeats: 0, isComplete: false });
    expect(outcomes).toBe(10);
  });

  test('tells a world that comes to a halt, and how it got there', async () => {
    const begin = async (): Promise<Counters> =>
      Object.defineProperty(new Counters(['a'], [1]), 'isOver', { value: false });
    await expect(explore({ begin, dependent: always, onOutcome: () => {} })).rejects.toThrow(
      'nothing is left that could happen, yet not all has ended, after: 0.0; 0.1',
    );
  });
});
