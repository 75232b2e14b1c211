/** A program that is wrong in one place. */
export interface Mutant {
  /** What it does wrong, in one line. No two are the same. */
  name: string;
  /** The source that is changed, under `src/`. */
  file: string;
  /** What is replaced by what. Each text is there exactly once. */
  edits: readonly (readonly [find: string, replacement: string])[];
  /** What has to notice. */
  killer: Killer;
}

/** The simulator, over the worlds of the seeds 1 and up; or those tests of a file whose names match. */
export type Killer = 'simulator' | { test: string; name: string };

export function describeKiller(killer: Killer): string {
  return killer === 'simulator' ? 'simulator' : `\`${killer.test}\``;
}
