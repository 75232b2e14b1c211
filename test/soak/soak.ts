import { randomUUID } from 'node:crypto';
import { messageOf } from '#src/runtime/errors';
import { Random } from '#src/runtime/random';
import { temporaryDirectory, type TemporaryDirectory } from '../support/directory.js';
import { Archive } from './archive.js';
import { noCounts, type Counts, type Life } from './counts.js';
import { Deck } from './deck.js';
import { FAULTS } from './faults.js';
import { Plans } from './plans.js';
import { processesWith } from './resources.js';
import { Round } from './round.js';
import { Site } from './site.js';
import { Verifiers } from './verifiers.js';

export interface SoakOptions {
  /** How long rounds are begun, in minutes. */
  minutes: number;
  /** Decides all that is random. When things happen is up to the machine. */
  seed: number;
  /** Told what happens, for people. */
  note: (line: string) => void;
}

export interface SoakReport {
  seed: number;
  elapsedMs: number;
  counts: Counts;
  /** Of each serving process the longest life. */
  lives: Life[];
  /** What went wrong, if anything did. */
  failure: SoakFailure | undefined;
}

export interface SoakFailure {
  message: string;
  /** What had happened in the last round. */
  account: string[];
  /** Images, devices and history, as they were then. */
  directory: string;
}

/** In the environment of every process that a soak starts, so that none can be left behind unseen. */
const MARK = 'COFFERDAM_SOAK';

/**
 * Serves a cluster to real clients, backs it up, and lets one fault after the other happen to it, until the time is over
 * or something is lost.
 */
export async function soak({ minutes, seed, note }: SoakOptions): Promise<SoakReport> {
  const startMs = Date.now();
  const mark = randomUUID();
  process.env[MARK] = mark;
  const directory = temporaryDirectory({ inMemory: true });
  const counts = noCounts();
  const lives: Life[] = [];
  let account: string[] = [];
  let failure: SoakFailure | undefined;
  try {
    const random = new Random(seed);
    await runRounds(
      { directory, counts, lives, random, endMs: startMs + minutes * 60_000 },
      (line, isFirst) => {
        if (isFirst) account = [];
        account.push(line);
        note(line);
      },
    );
    await expectNoneLeft(mark);
    await directory[Symbol.asyncDispose]();
  } catch (error) {
    failure = { message: messageOf(error), account, directory: directory.path };
  }
  delete process.env[MARK];
  return { seed, elapsedMs: Date.now() - startMs, counts, lives: longestOf(lives), failure };
}

interface Run {
  directory: TemporaryDirectory;
  counts: Counts;
  lives: Life[];
  random: Random;
  endMs: number;
}

async function runRounds(
  { directory, counts, lives, random, endMs }: Run,
  note: (line: string, isFirst: boolean) => void,
): Promise<void> {
  await using site = await Site.start(directory);
  const archives = [new Archive('one', directory, counts), new Archive('two', directory, counts)] as const;
  const verifiers = new Verifiers(random.fork(), counts);
  const plans = new Plans(site, random.fork());
  const faults = new Deck(FAULTS, random.fork());
  const durability = new Deck([true, false], random.fork());
  try {
    do {
      const fault = faults.draw();
      const everyWriteDurable = durability.draw();
      const writes = everyWriteDurable ? 'every write durable' : 'writes flushed now and then';
      note(`round ${counts.rounds + 1}: ${fault}, ${writes}`, true);
      const historyPath = directory.file('history.jsonl');
      const tell = (line: string): void => note(`  ${line}`, false);
      await Round.run({
        site,
        archives,
        verifiers,
        plans,
        historyPath,
        random: random.fork(),
        fault,
        everyWriteDurable,
        counts,
        note: tell,
      });
    } while (Date.now() < endMs);
    for (const archive of archives) await archive.retire();
    for (const member of site.members) await member.stop();
  } finally {
    lives.push(...site.members.flatMap((member) => member.lives));
  }
}

async function expectNoneLeft(mark: string): Promise<void> {
  const left = await processesWith(MARK, mark);
  if (left.length > 0) throw new Error(`processes were left behind: ${left.join(', ')}`);
}

function longestOf(lives: readonly Life[]): Life[] {
  const longest = new Map<string, Life>();
  for (const life of lives) {
    const other = longest.get(life.process);
    if (!other || other.samples < life.samples) longest.set(life.process, life);
  }
  return [...longest.values()];
}
