import { mkdir } from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { fileKinds, ReportFile } from '#src/cli/report-file';
import { messageOf } from '#src/runtime/errors';
import { benchPage } from './report-page.js';
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
import { backupsToDraw } from './timelines.js';

const suites: readonly Suite[] = [hash, core, scale, write, stall, copy, restore, verify, memory, nbd];

const imageSuites = suites.filter(({ takesImages }) => takesImages);

const usage = `Usage: npm run bench -- [suite ...] [options]

${suites.map(({ name, summary }) => `  ${name.padEnd(8)} ${summary}`).join('\n')}

Without suites: all of them; with --device those that can use images: ${imageSuites.map(({ name }) => name).join(', ')}.

  --device IMAGE   a disk image to measure with, only read; may be given several times
  --smoke          tiny inputs, to see that everything runs; the numbers mean nothing
  --json           one JSON document on stdout
  --report FOLDER  also write FOLDER/index.html: all of it with plots, and backups drawn from start to end
  --help           this text`;

interface Arguments {
  suites: readonly Suite[];
  images: readonly string[];
  smoke: boolean;
  json: boolean;
  report: string | undefined;
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
      report: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return undefined;
  const unknown = positionals.find((name) => !suites.some((suite) => suite.name === name));
  if (unknown !== undefined) throw new Error(`there is no suite ${unknown}`);
  const named = suites.filter(({ name }) => positionals.includes(name));
  const own = named.find(({ takesImages }) => !takesImages);
  if (own && values.device.length > 0)
    throw new Error(`${own.name} makes what it measures; leave out --device`);
  const unnamed = values.device.length > 0 ? imageSuites : suites;
  return {
    suites: named.length > 0 ? named : unnamed,
    images: values.device,
    smoke: values.smoke,
    json: values.json,
    report: values.report,
  };
}

async function main({ suites: chosen, images, smoke, json, report: folder }: Arguments): Promise<void> {
  await using file = folder === undefined ? undefined : await reportFileIn(folder);
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
  if (file) {
    const summaries = new Map(suites.map(({ name, summary }) => [name, summary]));
    const named = reports.map((report) => ({ ...report, summary: summaries.get(report.name) ?? '' }));
    await file.publish(await benchPage(machine, smoke, await backupsToDraw(smoke), named));
  }
}

async function reportFileIn(folder: string): Promise<ReportFile> {
  await mkdir(folder, { recursive: true });
  return await ReportFile.at(join(folder, 'index.html'), fileKinds.report);
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
