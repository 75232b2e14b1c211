import type { Command } from 'commander';
import { wholeNumber } from '../arguments.js';
import { addCommand, type CommandContext } from '../command.js';
import { simulateSeeds, type SeedFlags } from './simulate-seeds.js';

export function addSimulate(program: Command, context: CommandContext): void {
  addCommand(program, 'simulate', {
    summary: 'run the backup engine in simulated clusters in which everything goes wrong',
    description:
      'Run the coordinator, the servers and the image on simulated time, machines, disks and networks, each world from ' +
      'one seed, and check after each that no copy, write or generation came to harm.',
    example: 'cofferdam simulate --seeds 1000\ncofferdam simulate --seed 42 --trace',
    remark:
      'The same seed always gives the same run. A seed that fails is shrunk to a simpler world where possible.',
  })
    .option('--seeds <n>', 'how many worlds to run; default 200', wholeNumber('--seeds', 1))
    .option('--seed <n>', 'the first seed, or the only one; default a fresh one', wholeNumber('--seed', 0))
    .option('--trace', 'with one seed: print everything that happened')
    .option('--world <json>', 'with one seed: the world to run it in, as printed for a failure')
    .action((flags: SeedFlags) => simulateSeeds(flags, context));
}
