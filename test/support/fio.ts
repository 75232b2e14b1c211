import { runProcess } from './process.js';
import { temporaryDirectory } from './directory.js';

/** How many requests a job made; with `verify`, a read is one that found what was written. */
export interface FioRequests {
  reads: number;
  writes: number;
  trims: number;
}

/** Runs one job of fio on an NBD export. Rejects if a request fails, or what is read is not what was written. */
export async function runFio(
  uri: string,
  job: Readonly<Record<string, string | number>>,
): Promise<FioRequests> {
  // Where it keeps what it needs to go on with a verification.
  await using directory = temporaryDirectory();
  const args = Object.entries(job).map(([name, value]) => `--${name}=${value}`);
  const { exitCode, stdout, stderr } = await runProcess(
    'fio',
    // One process, so that nothing is left of it when it is killed.
    ['--thread', '--name=job', '--ioengine=nbd', `--uri=${uri}`, '--output-format=json', ...args],
    { cwd: directory.path },
  );
  const said = `${stdout}${stderr}`;
  const report = JSON.parse(stdout.slice(stdout.indexOf('{'))) as {
    jobs: {
      error: number;
      read: { total_ios: number };
      write: { total_ios: number };
      trim: { total_ios: number };
    }[];
  };
  if (exitCode !== 0 || report.jobs.some(({ error }) => error !== 0)) throw new Error(`fio failed: ${said}`);
  const sum = (of: (job: (typeof report.jobs)[number]) => number): number =>
    report.jobs.reduce((total, job) => total + of(job), 0);
  return {
    reads: sum(({ read }) => read.total_ios),
    writes: sum(({ write }) => write.total_ios),
    trims: sum(({ trim }) => trim.total_ios),
  };
}
