import { setTimeout as delay } from 'node:timers/promises';
import { GenerationDevice, describeVerdict, type BackupImage, type GenerationRecord } from 'cofferdam';
import { messageOf } from '#src/runtime/errors';
import type { Random } from '#src/runtime/random';
import { readContents } from '#src/witness/contents';
import { judge } from '#src/witness/judge';
import type { Archive } from './archive.js';
import { attempt, type Attempt, type Outcome } from './attempt.js';
import { countUnder, type Counts } from './counts.js';
import { codesOf, strike, type Fault, type Struck } from './faults.js';
import { describePlan, type Plan, type Plans } from './plans.js';
import { VOLUME, WITNESSED, type Site } from './site.js';
import type { Verifiers } from './verifiers.js';
import { Witnesses } from './witnesses.js';

export interface RoundOptions {
  site: Site;
  /** Two images, so that two backups can be under way at once. */
  archives: readonly [Archive, Archive];
  verifiers: Verifiers;
  plans: Plans;
  historyPath: string;
  random: Random;
  fault: Fault;
  /** Makes every write durable before it is answered, so that no fault takes any of the history. */
  everyWriteDurable: boolean;
  counts: Counts;
  /** Told what happens, for people. */
  note: (line: string) => void;
}

/** A generation that was made in this round. */
interface Made {
  archive: Archive;
  generation: number;
  /** Number of the copy in the history. */
  copy: number;
  /** Whether a fault may have taken writes, answered but not flushed, that it would be blamed for. */
  isExcused: boolean;
}

/** Clients write, a backup succeeds, another one is disturbed, a third one succeeds again; then all is checked. */
export class Round {
  readonly #made: Made[] = [];
  readonly #struck = new Set<string>();
  #isLossy = false;

  private constructor(
    private readonly options: RoundOptions,
    private readonly witnesses: Witnesses,
  ) {}

  /** @throws Error if anything is lost, or is not as it should be. */
  static async run(options: RoundOptions): Promise<void> {
    const { site, random, verifiers, counts, archives, everyWriteDurable } = options;
    const plan = { seed: random.uint32(), everyWriteDurable };
    using witnesses = await Witnesses.start(site, options.historyPath, plan);
    const round = new Round(options, witnesses);
    let failed: unknown;
    try {
      await verifiers.start(site.steady.uriOf(VOLUME));
      await delay(200);
      await round.#undisturbed();
      await round.#disturbed();
    } finally {
      await witnesses.stop();
      failed = await verifiers.stop();
    }
    round.#checkVerifiers(failed);
    await round.#undisturbed();
    await witnesses.check(round.#struck, counts);
    await round.#judgeAll();
    for (const archive of archives) await round.#inspect(archive);
    for (const member of site.members) await member.sample();
    counts.rounds++;
  }

  /** A backup that must succeed. */
  async #undisturbed(): Promise<void> {
    const { random, site, archives, plans, note } = this.options;
    const plan = plans.undisturbed();
    const archive = random.pick(archives);
    const copy = this.witnesses.history.requestCopy();
    const outcome = await attempt(plan, site, archive.path).ended;
    this.witnesses.history.completeCopy(copy);
    note(`${describePlan(plan)}: ${describeOutcome(outcome)}`);
    await this.#settle(archive, copy, outcome, undefined);
  }

  /** A backup, or two, to which the fault of this round happens. */
  async #disturbed(): Promise<void> {
    const { site, fault, random, archives, plans, note, counts } = this.options;
    const { history } = this.witnesses;
    const [first, second] = archives;
    const running = [this.#begin(first, plans.disturbedBy(fault))];
    if (fault === 'backups at once') running.push(this.#begin(second, plans.disturbedBy(fault)));
    const struck = await strike(fault, running[0]?.attempt ?? never(), site, random.fork());
    countUnder(counts.faults, fault);
    note(struck.account);
    await this.#suffer(struck);
    const outcomes = await Promise.all(running.map(({ attempt }) => attempt.ended));
    // What nobody knows the outcome of may commit until all is quiet.
    if (fault === 'server killed') await site.mortal.start();
    for (const member of site.members) await member.becomeQuiet();
    for (const [index, { archive, copy, plan }] of running.entries()) {
      history.completeCopy(copy);
      const outcome = outcomes[index] ?? never();
      note(`${describePlan(plan)}: ${describeOutcome(outcome)}`);
      await this.#settle(archive, copy, outcome, fault);
    }
  }

  #begin(archive: Archive, plan: Plan): { archive: Archive; plan: Plan; copy: number; attempt: Attempt } {
    const copy = this.witnesses.history.requestCopy();
    return { archive, plan, copy, attempt: attempt(plan, this.options.site, archive.path) };
  }

  /** Clients whose servers are gone stop, and so all stop: their writes depend on each other. */
  async #suffer({ servers }: Struck): Promise<void> {
    if (servers.length === 0) return;
    for (const id of servers) {
      this.#struck.add(id);
      if (isWitnessed(id) && this.options.site.isVolatile(id)) this.#isLossy = true;
    }
    await delay(100);
    await this.witnesses.stop();
  }

  /** Takes note of how a backup ended, and of what it left in its image. */
  async #settle(archive: Archive, copy: number, outcome: Outcome, fault: Fault | undefined): Promise<void> {
    const { backups } = this.options.counts;
    if (outcome.kind === 'refused') {
      if (!codesOf(fault).includes(outcome.code))
        throw new Error(`a backup failed: ${describeOutcome(outcome)}`);
      countUnder(backups.refused, outcome.code);
    }
    if (outcome.kind === 'cut short') backups.cutShort++;
    const fresh = await archive.adopt();
    const isUnknown =
      outcome.kind === 'cut short' || (outcome.kind === 'refused' && outcome.code === 'CONNECTION_LOST');
    const expected = outcome.kind === 'committed' ? [outcome.generation] : [];
    const isExpected = String(fresh) === String(expected) || (isUnknown && fresh.length === 1);
    if (!isExpected)
      throw new Error(
        `${archive.path}: ${describeOutcome(outcome)}, but its new generations are ${fresh.join(', ') || 'none'}`,
      );
    backups.committed += fresh.length;
    const isExcused = this.#isLossy && !this.witnesses.everyWriteDurable;
    for (const generation of fresh) this.#made.push({ archive, generation, copy, isExcused });
  }

  #checkVerifiers(failed: unknown): void {
    if (failed === undefined) return;
    // The volume is striped across these two.
    if (!this.#struck.has('d') && !this.#struck.has('e'))
      throw new Error(`a client of ${VOLUME}, which no fault struck, failed: ${messageOf(failed)}`);
    this.options.counts.clients.failedByFault++;
  }

  async #judgeAll(): Promise<void> {
    const { generations } = this.options.counts;
    for (const { archive, generation, copy, isExcused } of this.#made) {
      if (isExcused) {
        generations.notJudged++;
        continue;
      }
      await archive.read(generation, (image, record) => this.#judge(image, record, copy));
      generations.judged++;
    }
  }

  async #judge(image: BackupImage, record: GenerationRecord, copy: number): Promise<void> {
    const { history } = this.witnesses;
    const window = history.windowOf(copy);
    const contents = [];
    for (const [index, id] of WITNESSED.entries()) {
      if (!record.devices.some((device) => device.id === id)) continue;
      contents.push(await readContents(history, index, new GenerationDevice(image, record, id)));
    }
    const groups = record.consistency === 'group' ? [contents] : contents.map((content) => [content]);
    for (const group of groups) {
      const verdict = judge(history, group, window);
      if (verdict.consistent) continue;
      const { strategy, generation } = record;
      throw new Error(
        `generation ${generation} of ${image.store.name} (${strategy}, copy ${copy} of the history ` +
          `${this.options.historyPath}):\n${describeVerdict(verdict)}`,
      );
    }
  }

  /** Every generation verifies, and one of them restores as it was. */
  async #inspect(archive: Archive): Promise<void> {
    await archive.verify();
    const { generations } = archive;
    if (generations.length > 0) await archive.restore(this.options.random.pick(generations));
    await archive.turnOver();
  }
}

function isWitnessed(id: string): boolean {
  return WITNESSED.some((witnessed) => witnessed === id);
}

function describeOutcome(outcome: Outcome): string {
  switch (outcome.kind) {
    case 'committed':
      return `committed generation ${outcome.generation}`;
    case 'refused':
      return `refused (${outcome.message})`;
    case 'cut short':
      return 'cut short';
  }
}

function never(): never {
  throw new Error('there is an attempt for each outcome');
}
