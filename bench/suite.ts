import type { Report } from './report.js';

/** What a suite is run with. */
export interface SuiteContext {
  /** Tiny inputs, to see in seconds that everything runs. The numbers mean nothing. */
  smoke: boolean;
  /** Images from the command line, only to be read; none: the suite makes its own. */
  images: readonly string[];
  /** Says what is being done, on stderr. */
  note(text: string): void;
}

export interface Suite {
  name: string;
  /** What it measures, in one line. */
  summary: string;
  /** Whether it measures with images from the command line. Default false. */
  takesImages?: boolean;
  run(context: SuiteContext): Promise<Report>;
}
