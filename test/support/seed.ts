import { freshSeed } from '#src/runtime/random';

/** The seed of a randomised test: from the environment variable SEED to repeat a run, else fresh. It is printed. */
export function testSeed(): number {
  const given = process.env['SEED'];
  const seed = given === undefined ? freshSeed() : Number(given);
  console.log(`SEED=${seed}`);
  return seed;
}
