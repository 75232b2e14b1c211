import { Option, type Command } from 'commander';
import type { Strategy } from '../backup/image/record.js';
import { CofferdamError } from '../runtime/errors.js';

/** How the contents are kept while they are copied, as the user asked for it. */
export interface StrategyFlags {
  strategy: Strategy;
  closingCut: boolean;
}

export function addStrategyOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--strategy <strategy>', 'how the contents are kept while they are copied')
        .choices(['snapshot', 'hold', 'rolling'])
        .default('snapshot'),
    )
    .option('--no-closing-cut', 'with rolling: leave the devices as of different instants');
}

/** @throws CofferdamError BAD_ARGUMENT */
export function checkStrategy({ strategy, closingCut }: StrategyFlags): void {
  if (closingCut || strategy === 'rolling') return;
  throw new CofferdamError('BAD_ARGUMENT', `--no-closing-cut goes with --strategy rolling, not ${strategy}`);
}
