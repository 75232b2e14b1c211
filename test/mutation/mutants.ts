import type { Mutant } from './mutant.js';
import { backupMutants } from './mutants/backup.js';
import { barrierMutants } from './mutants/barrier.js';
import { cutMutants } from './mutants/cut.js';
import { deviceMutants } from './mutants/devices.js';
import { imageMutants } from './mutants/image.js';
import { restoreMutants } from './mutants/restore.js';
import { serverMutants } from './mutants/server.js';
import { serviceMutants } from './mutants/service.js';
import { snapshotMutants } from './mutants/snapshot.js';

/** Programs that are wrong in one place each, in ways in which somebody could get them wrong. */
export const mutants: readonly Mutant[] = [
  ...barrierMutants,
  ...serverMutants,
  ...snapshotMutants,
  ...cutMutants,
  ...backupMutants,
  ...serviceMutants,
  ...imageMutants,
  ...restoreMutants,
  ...deviceMutants,
];
