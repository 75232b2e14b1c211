import type { Command, CommanderError } from 'commander';
import { CofferdamError, errnoOf, messageOf } from '../runtime/errors.js';

/** A failure as the program tells it: one line on stderr and, with --json, the member `error` of the document. */
export interface Failure {
  /** A code of {@link CofferdamError}, or INTERNAL for what should not have happened. */
  code: string;
  /** One line. */
  message: string;
  device?: string;
  offsetBytes?: number;
  lengthBytes?: number;
}

/** Failures that the command line alone shows to be wrong: exit code 2. */
const usageCodes: readonly string[] = ['BAD_ARGUMENT', 'DUPLICATE_DEVICE'];

/** The first of several failures, where closing what was open failed after a failure. */
export function firstOf(error: unknown): unknown {
  // Known by its name: Node 20 has no such class, and the compiler makes do with an Error.
  const isSuppressing = error instanceof Error && error.name === 'SuppressedError' && 'suppressed' in error;
  return isSuppressing ? firstOf(error.suppressed) : error;
}

export function failureOf(error: unknown): Failure {
  if (!(error instanceof CofferdamError)) return unexpected(error);
  const { code, message, device, offsetBytes, lengthBytes } = error;
  return {
    code,
    message: oneLine(message),
    ...(device === undefined ? {} : { device }),
    ...(offsetBytes === undefined ? {} : { offsetBytes }),
    ...(lengthBytes === undefined ? {} : { lengthBytes }),
  };
}

/** What no layer below has given a code: the operating system may have refused something; the rest is our fault. */
function unexpected(error: unknown): Failure {
  const message = messageOf(error);
  if (error instanceof Error && 'syscall' in error) {
    return { code: errnoOf(error) === 'ENOSPC' ? 'DEVICE_FULL' : 'DEVICE_IO', message: oneLine(message) };
  }
  const request = 'this is a bug in cofferdam: please report it, with what COFFERDAM_DEBUG=1 prints';
  return { code: 'INTERNAL', message: oneLine(`${message}; ${request}`) };
}

export function exitCodeOf(failure: Failure): number {
  return usageCodes.includes(failure.code) ? 2 : 1;
}

/** What commander refused, in our form. It also throws after it has shown help or the version; that passes as it is. */
export function usageError(error: CommanderError, command: Command): CommanderError | CofferdamError {
  if (error.exitCode === 0) return error;
  const what =
    error.code === 'commander.help'
      ? 'no command was given'
      : error.message.replace(/^error: /, '').replace(/\.$/, '');
  return new CofferdamError('BAD_ARGUMENT', `${what}; see ${commandName(command)} --help`);
}

function commandName(command: Command): string {
  return command.parent ? `${commandName(command.parent)} ${command.name()}` : command.name();
}

function oneLine(text: string): string {
  return text.trim().replaceAll(/\s*\n\s*/g, ' ');
}
