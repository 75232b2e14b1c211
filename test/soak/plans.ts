import type { Strategy } from 'cofferdam';
import type { Random } from '#src/runtime/random';
import { formatBytes, KiB, MiB } from '#src/runtime/sizes';
import { Deck } from './deck.js';
import type { Fault } from './faults.js';
import type { Member } from './member.js';
import type { Site } from './site.js';

/** A backup that is about to be made. */
export interface Plan {
  /** `cluster`: a process coordinates all servers; `control`: a process has another do it; `api`: no process between. */
  way: 'cluster' | 'control' | 'api';
  /** Who does it, unless it is `cluster`. */
  member: Member;
  strategy: Strategy;
  closingCut: boolean;
  hash: 'xxh64' | 'blake3';
  blockSizeBytes: number;
  limitBytesPerSecond: number | undefined;
  maxStallMs: number | undefined;
}

/** A strategy, and whether a cut over all ends it. */
type Kind = Pick<Plan, 'strategy' | 'closingCut'>;

const KINDS: readonly [Kind, ...Kind[]] = [
  { strategy: 'snapshot', closingCut: true },
  { strategy: 'hold', closingCut: true },
  { strategy: 'rolling', closingCut: true },
  { strategy: 'rolling', closingCut: false },
];

/** Long enough for a machine that has other things to do. */
const PATIENT_STALL_MS = 30_000;

/** Deals all kinds of backups. */
export class Plans {
  readonly #undisturbed: Deck<Kind>;
  readonly #disturbed: Deck<Kind>;

  constructor(
    private readonly site: Site,
    private readonly random: Random,
  ) {
    this.#undisturbed = new Deck(KINDS, random);
    this.#disturbed = new Deck(KINDS, random);
  }

  /** A backup that must succeed, so it is given the time that it takes. */
  undisturbed(): Plan {
    const { random } = this;
    return {
      ...this.#undisturbed.draw(),
      ...this.#rest(),
      limitBytesPerSecond: random.chance(0.4) ? undefined : random.pick([32 * MiB, 12 * MiB]),
      maxStallMs: PATIENT_STALL_MS,
    };
  }

  /** A backup to which the fault can happen. */
  disturbedBy(fault: Fault): Plan {
    const plan = {
      ...this.#disturbed.draw(),
      ...this.#rest(),
      // Mostly so slow that the fault does not come too late, and sometimes so fast that it can meet the end.
      limitBytesPerSecond: this.random.chance(0.3) ? undefined : 8 * MiB,
      maxStallMs: undefined,
    };
    switch (fault) {
      case 'backup cancelled':
        return { ...plan, way: 'api' };
      case 'backup killed':
        return { ...plan, way: plan.way === 'api' ? 'cluster' : plan.way };
      case 'backup frozen':
        // Only there is it the coordinator itself.
        return { ...plan, way: 'cluster' };
      case 'server killed':
      case 'server frozen':
        return { ...plan, member: this.site.mortal };
      case 'backups at once':
      case 'power cut':
        return plan;
    }
  }

  #rest(): Pick<Plan, 'way' | 'member' | 'hash' | 'blockSizeBytes'> {
    const { random, site } = this;
    return {
      way: random.pick(['cluster', 'cluster', 'control', 'api']),
      member: random.pick(site.members),
      hash: random.pick(['xxh64', 'blake3']),
      blockSizeBytes: random.pick([4 * KiB, 64 * KiB, MiB]),
    };
  }
}

export function describePlan(plan: Plan): string {
  const { way, member, strategy, closingCut, hash, blockSizeBytes, limitBytesPerSecond: limit } = plan;
  return [
    `backup (${way === 'cluster' ? way : `${way} of ${member.name}`}, ${strategy}${closingCut ? '' : ' without closing cut'}`,
    `${hash}, blocks of ${formatBytes(blockSizeBytes)}${limit === undefined ? '' : `, ${formatBytes(limit)}/s`})`,
  ].join(', ');
}
