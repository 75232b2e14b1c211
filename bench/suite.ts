import type { Report } from './report.js';

/** What a suite is run with. */
export interface SuiteContext {
  /** Tiny inputs, to see in seconds that everything runs. The numbers mean nothing. */
  smoke: boolean;
  /** Images to back up, from the command line; none: the suite makes its own. */
  images: readonly string[];
  /** Says what is being done, on stderr. */
  note(text: string): void;
}

export interface Suite {
  name: string;
  /** What it measures, in one line. */
  summary: string;
  run(context: SuiteContext): Promise<Report>;
}
