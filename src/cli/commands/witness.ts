import type { Command } from 'commander';
import { addGroup, type CommandContext } from '../command.js';
import { addWitnessCheck } from './witness-check.js';
import { addWitnessRun } from './witness-run.js';

export function addWitness(program: Command, context: CommandContext): void {
  const witness = addGroup(
    program,
    'witness',
    'find out by experiment whether copies are consistent',
  ).description('Find out by experiment whether copies of block devices are crash-consistent.');
  addWitnessRun(witness, context);
  addWitnessCheck(witness, context);
}
