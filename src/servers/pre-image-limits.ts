import { tmpdir } from 'node:os';
import { CofferdamError } from '../runtime/errors.js';
import { checkedBytes, formatBytes, GiB, MiB } from '../runtime/sizes.js';

export interface PreImageLimits {
  /** How many bytes of pre-images one snapshot keeps in memory. Default 64 MiB. */
  memoryBytes?: number;
  /** How many more it may keep in a spill file. Default 1 GiB. */
  spillBytes?: number;
  /** Where the spill file goes; it has no name and vanishes with the process. Default: the system's temporary folder. */
  directory?: string;
}

/** @throws CofferdamError BAD_ARGUMENT for what is not a whole number of bytes. */
export function limitsOf(limits: PreImageLimits): Required<PreImageLimits> {
  return {
    memoryBytes: checkedBytes(limits.memoryBytes ?? 64 * MiB, 'preImages.memoryBytes'),
    spillBytes: checkedBytes(limits.spillBytes ?? GiB, 'preImages.spillBytes'),
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
