import { Command } from 'commander';
import type { CommandContext } from './command.js';
import { addBackup } from './commands/backup.js';
import { addDemo } from './commands/demo.js';
import { addList } from './commands/list.js';
import { addOpen } from './commands/open.js';
import { addRestore } from './commands/restore.js';
import { addServe } from './commands/serve.js';
import { addShow } from './commands/show.js';
import { addSimulate } from './commands/simulate.js';
import { addVerify } from './commands/verify.js';
import { addWitness } from './commands/witness.js';
import { usageError } from './failure.js';
import { packageVersion } from './version.js';

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

/** The whole command line. */
export function createProgram(context: CommandContext): Command {
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
  addDemo(program, context);
  addBackup(program, context);
  addList(program, context);
  addShow(program, context);
  addVerify(program, context);
  addRestore(program, context);
  addOpen(program, context);
  addServe(program, context);
  addSimulate(program, context);
  addWitness(program, context);
  return program;
}
