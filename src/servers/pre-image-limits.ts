import { tmpdir } from 'node:os';
import { CofferdamError } from '../runtime/errors.js';
import { formatBytes, GiB, MiB } from '../runtime/sizes.js';

export interface PreImageLimits {
  /** How many bytes of pre-images one snapshot keeps in memory. Default 64 MiB. */
  memoryBytes?: number;
  /** How many more it may keep in a spill file. Default 1 GiB. */
  spillBytes?: number;
  /** Where the spill file goes; it has no name and vanishes with the process. Default: the system's temporary folder. */
  directory?: string;
}

export function limitsOf(limits: PreImageLimits): Required<PreImageLimits> {
  return {
    memoryBytes: limits.memoryBytes ?? 64 * MiB,
    spillBytes: limits.spillBytes ?? GiB,
    directory: limits.directory ?? tmpdir(),
  };
}

export function limitReached({ memoryBytes, spillBytes }: Required<PreImageLimits>): CofferdamError {
  return new CofferdamError(
    'SNAPSHOT_BROKEN',
    `pre-images reached their limit of ${formatBytes(memoryBytes)} in memory and ` +
      `${formatBytes(spillBytes)} spilled; allow more, or copy when there are fewer writes`,
  );
}
