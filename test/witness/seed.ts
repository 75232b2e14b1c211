import { freshSeed } from '#src/runtime/random';

/** The seed of this run, from the environment variable SEED or a fresh one. Tests print it when they fail. */
export const seed = process.env['SEED'] === undefined ? freshSeed() : Number(process.env['SEED']);

/** For fast-check, which prints its seed and the smallest failing case. */
export function propertyOptions(): { seed: number } {
  return { seed };
}
