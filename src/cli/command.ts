import type { Command } from 'commander';
import type { Output } from './output.js';
import { usageError } from './failure.js';

/** What every command works with. */
export interface CommandContext {
  output: Output;
  /** Aborts when the user wants the program to stop. */
  signal: AbortSignal;
}

/** Adds a command that answers with --json too, and shows an example below its help. */
export function addCommand(parent: Command, usage: string, summary: string, example: string): Command {
  return addGroup(parent, usage, summary)
    .option('--json', 'print one JSON document instead of text')
    .addHelpText('after', `\nExample:\n${example.replaceAll(/^/gm, '  ')}`);
}

/** Adds a command that is only there to hold others. */
export function addGroup(parent: Command, usage: string, summary: string): Command {
  const command = parent.command(usage).description(summary);
  return command.exitOverride((error) => {
    throw usageError(error, command);
  });
}
