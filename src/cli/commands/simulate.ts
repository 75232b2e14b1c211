import type { Command } from 'commander';
import { CofferdamError } from '../../runtime/errors.js';
import { wholeNumber } from '../arguments.js';
import { addCommand, type CommandContext } from '../command.js';
import { addPlanOptions, runPlan, type PlanFlags } from './simulate-plan.js';
import { simulateSeeds, type SeedFlags } from './simulate-seeds.js';

type Flags = SeedFlags & Omit<PlanFlags, 'servers'> & { servers?: PlanFlags['servers'] };

export function addSimulate(program: Command, context: CommandContext): void {
  const command = addCommand(program, 'simulate', {
    summary: 'run the backup engine in simulated clusters in which everything goes wrong',
    description:
      'Run the coordinator, the servers and the image on simulated time, machines, disks and networks, each world from ' +
      'one seed, and check after each that no copy, write or generation came to harm. With --servers: tell instead ' +
      "how long a strategy would make clients' writes wait on so many servers.",
    example:
      'cofferdam simulate --seeds 1000\n' +
      'cofferdam simulate --seed 42 --trace\n' +
      'cofferdam simulate --servers 10,100,1000 --rtt 200us --strategy snapshot,rolling\n' +
      'cofferdam simulate --servers 1000 --strategy hold --device-size 1TiB --copy-rate 2GB/s --load 50',
    remark:
      'The same seed always gives the same run. A seed that fails is shrunk to a simpler world where possible.\n' +
      'What --servers takes for granted is in docs/PLANNING.md.',
  })
    .option('--seed <n>', 'the first seed, or the only one; default a fresh one', wholeNumber('--seed', 0))
    .optionsGroup('Options to look for faults with:')
    .option('--seeds <n>', 'how many worlds to run; default 200', wholeNumber('--seeds', 1))
    .option('--trace', 'with one seed: print everything that happened')
    .option('--world <json>', 'with one seed: the world to run it in, as printed for a failure')
    .optionsGroup('Options to plan with:');
  addPlanOptions(command).action((flags: Flags) => run(flags, command, context));
}

async function run(flags: Flags, command: Command, context: CommandContext): Promise<void> {
  const { servers } = flags;
  if (servers === undefined) {
    refuse(command, 'Options to plan with:', 'goes with --servers');
    return simulateSeeds(flags, context);
  }
  refuse(command, 'Options to look for faults with:', 'does not go with --servers');
  return runPlan({ ...flags, servers }, context);
}

/** @throws CofferdamError BAD_ARGUMENT if an option of this group was given. */
function refuse(command: Command, group: string, why: string): void {
  const option = command.options.find(
    (candidate) =>
      candidate.helpGroupHeading === group &&
      command.getOptionValueSource(candidate.attributeName()) === 'cli',
  );
  if (option) throw new CofferdamError('BAD_ARGUMENT', `${option.long} ${why}`);
}
