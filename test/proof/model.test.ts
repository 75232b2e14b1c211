import { describe, expect } from 'vitest';
import { needs } from '../support/needs.js';
import { spin, type SpinResult, type SpinRun } from './spin.js';

const test = needs('spin', 'gcc');
const TIMEOUT_MS = 600_000;

const NOT_CLOSED = 'assertion violated ((required& ~(fixed))==0)';

async function check(of: SpinRun['of'], defines: readonly string[]): Promise<SpinResult> {
  const result = await spin({ of, defines });
  const verdict = result.violation ?? 'holds';
  console.log(`${of} ${defines.join(' ')}: ${verdict}, ${result.states} states`);
  return result;
}

/** `coordinator 0: committed: 2, required: 1`: the sets as numbers, one bit per write. */
function setsOf(verdict: string | undefined): { committed: number; required: number } {
  const sets = /^coordinator 0: committed: (\d+), required: (\d+)$/.exec(verdict ?? '');
  return { committed: Number(sets?.[1]), required: Number(sets?.[2]) };
}

describe('cut-and-hold', () => {
  for (const defines of [
    ['SERVERS=2', 'WRITES=3', 'OTHERS=1', 'EPOCHS=2'],
    ['SERVERS=2', 'WRITES=2', 'OTHERS=2', 'EPOCHS=3'],
    ['SERVERS=3', 'WRITES=2', 'OTHERS=1', 'EPOCHS=2'],
    ['SERVERS=3', 'WRITES=3', 'OTHERS=1', 'EPOCHS=1'],
  ]) {
    test(
      `commits only closed cuts: ${defines.join(' ')}`,
      async () => {
        expect((await check('safety', defines)).violation).toBeUndefined();
      },
      TIMEOUT_MS,
    );
  }

  test(
    'takes every step that the model knows',
    async () => {
      expect((await check('safety', ['SERVERS=2', 'WRITES=2', 'OTHERS=1', 'EPOCHS=2'])).unreached).toEqual(
        [],
      );
    },
    TIMEOUT_MS,
  );

  test(
    'commits cuts that have a write, its reason, and not all that is stored',
    async () => {
      const { violation, story } = await check('safety', ['WRITES=3', 'COVERED']);
      expect(violation).toMatch(/^assertion violated \(\(required==0\)/);
      const { committed, required } = setsOf(story.at(-1));
      expect(required).not.toBe(0);
      expect(committed & required).toBe(required);
    },
    TIMEOUT_MS,
  );

  for (const weakening of [
    'RELEASE_EARLY',
    'ONE_AT_A_TIME',
    'ANY_ANSWER',
    'STALE_EPOCHS',
    'RELEASE_BY_EPOCH',
    'HOLD_ACKS',
    'NO_DRAIN',
    'SNAPSHOT_BY_TICKET',
  ]) {
    test(
      `commits a cut that is not closed when weakened: ${weakening}`,
      async () => {
        const { violation, story } = await check('safety', ['WRITES=2', weakening]);
        expect(violation).toBe(NOT_CLOSED);
        // The run that leads there, repeated on its own, ends with a cut that lacks what it must have.
        const { committed, required } = setsOf(story.at(-1));
        expect(required & ~committed).not.toBe(0);
      },
      TIMEOUT_MS,
    );
  }

  test(
    'may hold acknowledgements in place of writes where nobody reads',
    async () => {
      const { violation } = await check('safety', ['WRITES=3', 'HOLD_ACKS', 'NO_READS']);
      expect(violation).toBeUndefined();
    },
    TIMEOUT_MS,
  );
});

describe('a barrier', () => {
  const bounds = ['WRITES=2', 'EPOCHS=1'];

  test(
    'comes down, whoever has died',
    async () => {
      expect((await check('liveness', bounds)).violation).toBeUndefined();
    },
    TIMEOUT_MS,
  );

  test(
    'stays up for ever without a lease',
    async () => {
      expect((await check('liveness', [...bounds, 'NO_LEASE'])).violation).toBe('acceptance cycle');
    },
    TIMEOUT_MS,
  );
});
