import { parseArgs } from 'node:util';
import { messageOf } from '#src/runtime/errors';
import { freshSeed } from '#src/runtime/random';
import { describeFailure, formatReport } from './report.js';
import { soak, type SoakOptions } from './soak.js';

const usage = `Usage: npm run soak -- [options]

Serves a cluster to real clients, backs it up in every way, kills what takes part, and checks that nothing is lost.
It needs fio and qemu-io.

  --minutes N   how long (default: 2)
  --seed N      repeat what an earlier run decided by chance
  --json        one JSON document on stdout
  --help        this text`;

type Arguments = Omit<SoakOptions, 'note'> & { json: boolean };

/** Undefined if all that was wanted is the usage. */
function readArguments(args: string[]): Arguments | undefined {
  const { values } = parseArgs({
    args,
    options: {
      minutes: { type: 'string', default: '2' },
      seed: { type: 'string' },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return undefined;
  const minutes = Number(values.minutes);
  if (!(minutes > 0 && minutes < Infinity))
    throw new Error(`--minutes: ${values.minutes} is not a number above 0`);
  const seed = values.seed === undefined ? freshSeed() : Number(values.seed);
  if (!Number.isSafeInteger(seed)) throw new Error(`--seed: ${values.seed} is not a whole number`);
  return { minutes, seed, json: values.json };
}

async function main({ json, ...options }: Arguments): Promise<void> {
  console.error(`seed ${options.seed}`);
  const report = await soak({ ...options, note: (line) => console.error(line) });
  console.log(json ? JSON.stringify(report, null, 2) : formatReport(report));
  if (!report.failure) return;
  console.error(describeFailure(report));
  process.exitCode = 1;
}

let chosen: Arguments | undefined;
try {
  chosen = readArguments(process.argv.slice(2));
  if (!chosen) console.log(usage);
} catch (error) {
  console.error(`${messageOf(error)}\n\n${usage}`);
  process.exitCode = 2;
}
if (chosen) await main(chosen);
