import type { Command } from 'commander';
import type { Output } from './output.js';
import { usageError } from './failure.js';

/** What every command works with. */
export interface CommandContext {
  output: Output;
  /** Aborts when the user wants the program to stop. */
  signal: AbortSignal;
  /** Says that the command has nothing left to do but to end when it is asked to stop. */
  expectStop(): void;
}

/** What the help says of a command. */
export interface CommandHelp {
  /** A few words, for the list of commands. */
  summary: string;
  description: string;
  /** Lines that can be copied into a shell. */
  example: string;
  /** What else to know. */
  remark?: string;
}

/** Adds a command that does something; it answers with --json too. */
export function addCommand(parent: Command, name: string, help: CommandHelp): Command {
  const remark = help.remark === undefined ? '' : `\n\n${help.remark}`;
  return addGroup(parent, name, help.summary)
    .description(help.description)
    .option('--json', 'print one JSON document instead of text')
    .addHelpText('after', `\nExample:\n${help.example.replaceAll(/^/gm, '  ')}${remark}`);
}

/** Adds a command that is only there to hold others. */
export function addGroup(parent: Command, name: string, summary: string): Command {
  const command = parent.command(name).summary(summary).helpCommand(false);
  return command.exitOverride((error) => {
    throw usageError(error, command);
  });
}
