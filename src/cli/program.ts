import { Command } from 'commander';
import type { CommandContext } from './command.js';
import { usageError } from './failure.js';
import { packageVersion } from './version.js';

/** How the commands are added, in the order of the help. Each is loaded only when it is needed: together they take long. */
const commands: Readonly<Record<string, () => Promise<AddCommand>>> = {
  demo: async () => (await import('./commands/demo.js')).addDemo,
  backup: async () => (await import('./commands/backup.js')).addBackup,
  list: async () => (await import('./commands/list.js')).addList,
  show: async () => (await import('./commands/show.js')).addShow,
  verify: async () => (await import('./commands/verify.js')).addVerify,
  restore: async () => (await import('./commands/restore.js')).addRestore,
  open: async () => (await import('./commands/open.js')).addOpen,
  serve: async () => (await import('./commands/serve.js')).addServe,
  simulate: async () => (await import('./commands/simulate.js')).addSimulate,
  witness: async () => (await import('./commands/witness.js')).addWitness,
};

type AddCommand = (program: Command, context: CommandContext) => void;

const afterHelp = `
Exit codes:
  0    done
  1    the operation failed: corruption found, cut void, copy not consistent, ...
  2    bad usage
  130  interrupted before it was done (143 by SIGTERM)

Failures print one line on stderr: cofferdam: CODE: what happened and what to do.
With COFFERDAM_DEBUG=1 in the environment they also print where in the program.

See for yourself:
  cofferdam demo`;

/** As much of the command line as these words need. */
export async function createProgram(words: readonly string[], context: CommandContext): Promise<Command> {
  const program = new Command('cofferdam')
    .description(
      'Copies block devices as of one instant into a backup image, crash-consistently, while clients go on writing.',
    )
    .version(packageVersion(), '--version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .helpCommand(false)
    .configureHelp({ subcommandTerm: (command) => command.name() })
    .configureOutput({ outputError: () => {} })
    .addHelpText('after', afterHelp);
  program.exitOverride((error) => {
    throw usageError(error, program);
  });
  // What an option before it asks for, such as help, may be about all of them.
  const [first = ''] = words;
  const needed = Object.hasOwn(commands, first) ? [first] : Object.keys(commands);
  for (const name of needed) (await commands[name]?.())?.(program, context);
  return program;
}
