import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { forEachParallel } from '#src/runtime/parallel';
import { describeKiller, type Mutant } from './mutant.js';
import { mutants } from './mutants.js';
import { runTests, simulate, tryOut, type Verdict } from './trial.js';
import { Workshop, type Package } from './workshop.js';

/** The right program survives them, and every mutant that is the simulator's to kill does not. */
const WORLDS = 100;

/** The trials take minutes together, and each test waits for its own. */
const PATIENCE_MS = 900_000;

/** Each runs in a process of its own. */
const AT_ONCE = 2;

/** A trial of the program or of one mutant, and who waits for its end. */
class Trial {
  readonly ended: Promise<Verdict>;
  #resolve: (verdict: Verdict) => void = () => {};
  #reject: (error: Error) => void = () => {};

  constructor(
    readonly mutant: Mutant | undefined,
    readonly judge: (where: Package) => Promise<Verdict>,
  ) {
    this.ended = new Promise((resolve, reject) => ([this.#resolve, this.#reject] = [resolve, reject]));
    // Whoever waits is told; until then nobody may be there.
    this.ended.catch(() => {});
  }

  async run(workshop: Workshop): Promise<void> {
    try {
      await using where = await workshop.package(this.mutant);
      this.#resolve(await this.judge(where));
    } catch (error) {
      this.#reject(error as Error);
    }
  }
}

const trials = new Map(
  mutants.map((mutant) => [mutant, new Trial(mutant, (where) => tryOut(where, mutant.killer, WORLDS))]),
);

/** The program as it is, before all that is asked of the mutants. */
const tests = mutants.flatMap(({ killer }) => (killer === 'simulator' ? [] : [killer]));
const controls = {
  simulator: new Trial(undefined, (where) => simulate(where, WORLDS)),
  tests: new Trial(undefined, (where) => {
    const files = new Set(tests.map((killer) => killer.test));
    return runTests(where, [...files], tests.map(({ name }) => name).join('|'));
  }),
};

let workshop: Workshop;
let running: Promise<void>;

beforeAll(async () => {
  workshop = await Workshop.open(mutants);
  const all = [...Object.values(controls), ...trials.values()];
  running = forEachParallel(all, AT_ONCE, (trial) => trial.run(workshop));
}, PATIENCE_MS);

afterAll(async () => {
  await running;
  await workshop[Symbol.asyncDispose]();
  console.log(await table());
}, PATIENCE_MS);

test('there are enough mutants, each with a name of its own', () => {
  expect(new Set(mutants.map(({ name }) => name)).size).toBe(mutants.length);
  expect(mutants.length).toBeGreaterThanOrEqual(40);
});

test('what a mutant changes is part of the very program that is tested', async () => {
  const dist = new URL('../../dist/', import.meta.url);
  for (const mutant of mutants) {
    const built = await readFile(new URL(mutant.file.replace(/\.ts$/, '.js'), dist), 'utf8');
    expect(await workshop.compiled(mutant, 'original')).toBe(built);
    expect(await workshop.compiled(mutant)).not.toBe(built);
  }
});

test('docs/TESTING.md lists these mutants and no others', async () => {
  const page = await readFile(new URL('../../docs/TESTING.md', import.meta.url), 'utf8');
  const [, section = ''] = page.split('\n## Mutants\n');
  const rows = section.split('\n').filter((line) => line.startsWith('|'));
  const listed = rows.slice(2).map((row) => row.split(' | ').slice(0, 3).join(' | '));
  expect(listed).toEqual(mutants.map(beginningOfRow));
});

describe('the program as it is', () => {
  test(
    'survives the simulator',
    async () => {
      expect(await controls.simulator.ended).toEqual({ kind: 'survived' });
    },
    PATIENCE_MS,
  );

  test(
    'survives the tests',
    async () => {
      expect(await controls.tests.ended).toEqual({ kind: 'survived' });
    },
    PATIENCE_MS,
  );
});

describe('is noticed:', () => {
  test.each([...trials].map(([{ name }, trial]) => ({ name, trial })))(
    '$name',
    async ({ trial }) => {
      expect(await trial.ended).toMatchObject({ kind: 'killed' });
    },
    PATIENCE_MS,
  );
});

function beginningOfRow({ name, file, killer }: Mutant): string {
  return `| ${name} | \`${file}\` | ${describeKiller(killer)}`;
}

async function table(): Promise<string> {
  const lines = ['| what is wrong | in `src/` | found by | as |', '| --- | --- | --- | --- |'];
  for (const [mutant, { ended }] of trials) {
    const verdict = await ended.catch((error: unknown) => ({ kind: String(error) }));
    lines.push(`${beginningOfRow(mutant)} | ${'by' in verdict ? verdict.by : verdict.kind.toUpperCase()} |`);
  }
  return lines.join('\n');
}
