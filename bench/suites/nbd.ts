import { execFile } from 'node:child_process';
import { basename } from 'node:path';
import { promisify } from 'node:util';
import { findTool } from '#src/cli/demo/tool';
import { KiB, MiB } from '#src/runtime/sizes';
import { timesOf } from '../contest.js';
import { describe } from '../disk-images.js';
import { makeImage } from '../inputs.js';
import { nbdServers } from '../nbd-servers.js';
import { isInMemory } from '../page-cache.js';
import { median, ratio } from '../ratio.js';
import type { Cell, Column, Report, Table } from '../report.js';
import { memoryDirectory } from '../scratch.js';
import type { Suite, SuiteContext } from '../suite.js';

export const nbd: Suite = {
  name: 'nbd',
  summary: 'an NBD export of a file beside qemu-nbd and nbdkit, under fio',
  takesImages: true,
  run,
};

interface Pattern {
  name: string;
  rw: 'randread' | 'randwrite' | 'read' | 'write';
  blockBytes: number;
}

const patterns: readonly Pattern[] = [
  { name: 'random reads of 4 KiB', rw: 'randread', blockBytes: 4 * KiB },
  { name: 'random writes of 4 KiB', rw: 'randwrite', blockBytes: 4 * KiB },
  { name: 'sequential reads of 256 KiB', rw: 'read', blockBytes: 256 * KiB },
  { name: 'sequential writes of 256 KiB', rw: 'write', blockBytes: 256 * KiB },
];

const DEPTH = 32;

const columns: Column[] = [
  { name: 'requests', unit: 'text' },
  { name: 'served by', unit: 'text' },
  { name: 'rate, median', unit: 'bytes/s' },
  { name: 'requests/s', unit: 'count' },
  { name: 'cofferdam / this', unit: 'ratio' },
];

async function run(context: SuiteContext): Promise<Report> {
  const fio = await findTool('fio');
  if (fio === undefined) throw new Error('there is no fio on the PATH; install it to measure NBD exports');
  const tables: Table[] = [];
  for (const image of context.images.length > 0 ? context.images : [undefined]) {
    tables.push(await measureImage(fio, image, context));
  }
  return { tables, notes };
}

/** @param given an image of the user's, which is copied first; absent: one is made. */
async function measureImage(
  fio: string,
  given: string | undefined,
  { smoke, note }: SuiteContext,
): Promise<Table> {
  const sizeBytes = given === undefined ? (smoke ? 8 : 256) * MiB : (await describe(given)).sizeBytes;
  await using directory = await memoryDirectory(2 * sizeBytes);
  const image = directory.file('disk.img');
  if (given === undefined) await makeImage(image, sizeBytes, 'random');
  else await execute('cp', ['--sparse=always', given, image]);
  const servers = await nbdServers();
  const seconds = smoke ? 0.2 : 2;
  const rates = new Map<string, number[]>();
  for (let round = 0; round < (smoke ? 1 : 7); round++) {
    note(`round ${round + 1}`);
    // They take turns on one image.
    for (const server of servers) {
      await using running = await server.serve(image, directory);
      for (const pattern of patterns) {
        const key = keyOf(pattern, server.name);
        const rate = await measure(fio, running.uri, pattern, { sizeBytes, seconds });
        rates.set(key, [...(rates.get(key) ?? []), rate]);
      }
    }
  }
  const rows: Cell[][] = patterns.flatMap((pattern) => {
    const [own = []] = servers.map(({ name }) => timesOf(rates, keyOf(pattern, name)));
    return servers.map(({ name }) => {
      const theirs = timesOf(rates, keyOf(pattern, name));
      const rate = median(theirs);
      return [pattern.name, name, rate, Math.round(rate / pattern.blockBytes), ratio(own, theirs)];
    });
  });
  const what = given === undefined ? `A file of ${sizeBytes / MiB} MiB` : `A copy of ${basename(given)}`;
  const place = (await isInMemory(image)) ? 'in memory' : 'on disk';
  return { title: `${what} ${place}, depth ${DEPTH}`, columns, rows };
}

const notes = [
  'fio with its nbd engine, one connection over a Unix socket. The servers take turns on the same image, and a ratio is ' +
    'our rate by the rate of this one in the same round: more is better. Ours goes through the write barrier of a storage ' +
    'server; qemu-nbd runs with --cache=writeback.',
];

function keyOf(pattern: Pattern, server: string): string {
  return `${pattern.rw} ${server}`;
}

const execute = promisify(execFile);

/** The rate that fio reached, in bytes per second. */
async function measure(
  fio: string,
  uri: string,
  { rw, blockBytes }: Pattern,
  { sizeBytes, seconds }: { sizeBytes: number; seconds: number },
): Promise<number> {
  const { stdout } = await execute(fio, [
    '--name=bench',
    '--ioengine=nbd',
    `--uri=${uri}`,
    `--rw=${rw}`,
    `--bs=${blockBytes}`,
    `--iodepth=${DEPTH}`,
    `--size=${sizeBytes}`,
    '--time_based',
    `--runtime=${seconds * 1000}ms`,
    '--output-format=json',
  ]);
  // It may say something before the document.
  const report = JSON.parse(stdout.slice(stdout.indexOf('{'))) as {
    jobs: { error: number; read: { bw_bytes: number }; write: { bw_bytes: number } }[];
  };
  const job = report.jobs[0];
  if (job?.error !== 0) throw new Error(`fio failed on ${uri}: ${stdout}`);
  return rw.endsWith('read') ? job.read.bw_bytes : job.write.bw_bytes;
}
