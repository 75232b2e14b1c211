import { cpus, totalmem } from 'node:os';
import { parseArgs } from 'node:util';
import { messageOf } from '#src/runtime/errors';
import { formatReport, type Report } from './report.js';
import type { Suite, SuiteContext } from './suite.js';
import { copy } from './suites/copy.js';
import { core } from './suites/core.js';
import { hash } from './suites/hash.js';
import { memory } from './suites/memory.js';
import { nbd } from './suites/nbd.js';
import { restore } from './suites/restore.js';
import { scale } from './suites/scale.js';
import { stall } from './suites/stall.js';
import { verify } from './suites/verify.js';
import { write } from './suites/write.js';

const suites: readonly Suite[] = [hash, core, scale, write, stall, copy, restore, verify, memory, nbd];

const imageSuites = suites.filter(({ takesImages }) => takesImages);

const usage = `Usage: npm run bench -- [suite ...] [options]

${suites.map(({ name, summary }) => `  ${name.padEnd(8)} ${summary}`).join('\n')}

Without suites: all of them; with --device those that can use images: ${imageSuites.map(({ name }) => name).join(', ')}.

  --device IMAGE   a disk image to measure with, only read; may be given several times
  --smoke          tiny inputs, to see that everything runs; the numbers mean nothing
  --json           one JSON document on stdout
  --help           this text`;

interface Arguments {
  suites: readonly Suite[];
  images: readonly string[];
  smoke: boolean;
  json: boolean;
}

/** Undefined if all that was wanted is the usage. */
function readArguments(args: string[]): Arguments | undefined {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      device: { type: 'string', multiple: true, default: [] },
      smoke: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return undefined;
  const unknown = positionals.find((name) => !suites.some((suite) => suite.name === name));
  if (unknown !== undefined) throw new Error(`there is no suite ${unknown}`);
  const named = suites.filter(({ name }) => positionals.includes(name));
  const unnamed = values.device.length > 0 ? imageSuites : suites;
  return {
    suites: named.length > 0 ? named : unnamed,
    images: values.device,
    smoke: values.smoke,
    json: values.json,
  };
}

async function main({ suites: chosen, images, smoke, json }: Arguments): Promise<void> {
  const reports: ({ name: string } & Report)[] = [];
  for (const suite of chosen) {
    const context: SuiteContext = {
      smoke,
      images,
      note: (text) => void process.stderr.write(`${suite.name}: ${text}\n`),
    };
    const report = await suite.run(context);
    reports.push({ name: suite.name, ...report });
    if (!json) console.log(formatReport(suite.name, report));
  }
  const processors = cpus();
  const machine = {
    processor: processors[0]?.model ?? 'unknown',
    processors: processors.length,
    memoryBytes: totalmem(),
    system: `${process.platform} ${process.arch}`,
    node: process.version,
  };
  if (json) console.log(JSON.stringify({ smoke, machine, suites: reports }, null, 2));
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
