#!/usr/bin/env node
// eslint-disable-next-line import/no-unassigned-import -- first, before anything is opened that could be taken for inherited
import './inherited-descriptors.js';
import { CommanderError } from 'commander';
import { cancellation } from '../backup/cancellation.js';
import { CofferdamError, errnoOf, messageOf } from '../runtime/errors.js';
import { firstOf } from './failure.js';
import { Interruption } from './interruption.js';
import { Output } from './output.js';
import { createProgram } from './program.js';

const args = process.argv.slice(2);
const output = new Output(wantsJson(args), process.stdout, process.stderr);
const interruption = new Interruption();

process.stdout.on('error', (error) => {
  // The reader of a pipe may go when it has seen enough.
  if (errnoOf(error) === 'EPIPE') return interruption.stop('SIGPIPE');
  output.complain(new CofferdamError('TARGET_WRITE_FAILED', `stdout cannot be written: ${messageOf(error)}`));
  process.exit(1);
});
process.stderr.on('error', () => {});
// Node would print warnings in its own form.
process.removeAllListeners('warning');
process.on('warning', (warning) => {
  if ('code' in warning && String(warning.code).startsWith('COFFERDAM_'))
    output.note(`cofferdam: note: ${warning.message}`);
});
process.on('uncaughtException', (error) => {
  output.fail(error);
  process.exit(1);
});

try {
  const { signal } = interruption;
  const program = await createProgram(args, { output, signal, expectStop: () => interruption.expect() });
  await program.parseAsync(args, { from: 'user' });
  process.exitCode = output.exitCode;
} catch (error) {
  // Help and the version are thrown too, after they were printed.
  if (!(error instanceof CommanderError)) {
    const { exitCode } = interruption;
    const failure = firstOf(error);
    const wasStopped = exitCode !== undefined && !(failure instanceof CofferdamError);
    // A reader that has gone does not want to hear more.
    if (exitCode === undefined || interruption.by !== 'SIGPIPE')
      output.fail(wasStopped ? cancellation(interruption.signal) : failure);
    process.exitCode = exitCode ?? output.exitCode;
  }
}

/** Whether to answer in JSON, known before the rest of the command line is, so that its errors are in JSON too. */
function wantsJson(words: readonly string[]): boolean {
  const end = words.indexOf('--');
  return words.slice(0, end === -1 ? undefined : end).includes('--json');
}
