import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { setTimeout as wait } from 'node:timers/promises';
import { KiB } from '#src/runtime/sizes';
import type { LatencyBins } from './latencies.js';

export interface LoadOptions {
  /** NBD exports, each of which gets a client of its own. */
  uris: readonly string[];
  /** How many writes a client has under way. */
  depth: number;
  /** What is not counted in the beginning, in ms. */
  warmUpMs: number;
  /** Where fio may leave files. */
  directory: string;
}

/** What clients saw. */
export interface Load {
  writesPerSecond: number;
  bins: LatencyBins;
}

/**
 * Clients that write 4 KiB at random places, each with so many writes under way, while something else happens.
 *
 * @param during is called when the clients are writing; they end with it.
 */
export async function loadDuring(options: LoadOptions, during: () => Promise<void>): Promise<Load> {
  const fio = spawn('fio', argumentsFor(options), {
    cwd: options.directory,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const ended = once(fio, 'exit');
  const errors = text(fio.stderr);
  let said = '';
  const finished = once(fio.stdout, 'end');
  try {
    await new Promise<void>((resolve, reject) => {
      fio.stdout.on('data', (data: Buffer) => {
        said += data.toString();
        if (said.split('connected to NBD server').length > options.uris.length) resolve();
      });
      ended.then(() => reject(new Error(`fio ended early: ${said}`)), reject);
    });
    await wait(options.warmUpMs);
    await during();
  } finally {
    // It ends at once and tells what it has seen.
    fio.kill('SIGINT');
    await ended;
  }
  await finished;
  return readReport(said, await errors);
}

function argumentsFor({ uris, depth, warmUpMs }: LoadOptions): string[] {
  const common = [
    ...['--ioengine=nbd', '--rw=randwrite', `--bs=${4 * KiB}`, `--iodepth=${depth}`],
    ...['--time_based', '--runtime=1h', `--ramp_time=${warmUpMs}ms`, '--group_reporting'],
  ];
  return [
    // Threads, so that nothing is left of it when it is killed.
    ...['--thread', '--output-format=json+'],
    ...uris.flatMap((uri, i) => [`--name=client${i}`, ...common, `--uri=${uri}`]),
  ];
}

function readReport(stdout: string, stderr: string): Load {
  // It may say something before the document.
  const start = stdout.indexOf('{');
  if (start < 0) throw new Error(`fio failed: ${stdout}${stderr}`);
  const { jobs } = JSON.parse(stdout.slice(start)) as {
    jobs: { error: number; write: { iops: number; clat_ns: { bins?: LatencyBins } } }[];
  };
  const [all] = jobs;
  const bins = all?.write.clat_ns.bins;
  if (jobs.length !== 1 || all?.error !== 0 || bins === undefined) {
    throw new Error(`fio failed: ${stdout}${stderr}`);
  }
  return { writesPerSecond: all.write.iops, bins };
}
