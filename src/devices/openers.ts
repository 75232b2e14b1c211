import type { BigIntStats } from 'node:fs';

/** Many may share a thing that none of them changes, or one has it alone. */
export type Access = 'shared' | 'exclusive';

/** The number of sharers, or 0 for one exclusive opener. */
const openers = new Map<string, number>();

/**
 * Claims what an open file or block special is, within this process, where a second opener would be two devices over
 * the same bytes. Locks of the operating system do the same between processes, but do not exist everywhere.
 *
 * @returns the claim, to dispose of on closing; undefined if others have it and the two do not go together.
 */
export function claim(identity: string, access: Access): Disposable | undefined {
  const sharers = openers.get(identity);
  if (sharers !== undefined && (access === 'exclusive' || sharers === 0)) return undefined;
  openers.set(identity, access === 'exclusive' ? 0 : (sharers ?? 0) + 1);
  return { [Symbol.dispose]: () => giveUp(identity) };
}

/** Tells apart all files, by device and inode, and all block specials, by the number of what is behind them. */
export function identityOfStats(stats: BigIntStats): string {
  return stats.isBlockDevice()
    ? `block ${deviceNumber(stats.rdev)}`
    : `file ${deviceNumber(stats.dev)} ${stats.ino}`;
}

/** A device number as the kernel writes it: `major:minor` (the encoding of makedev(3)). */
export function deviceNumber(device: bigint): string {
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & ~0xfffn);
  const minor = (device & 0xffn) | ((device >> 12n) & ~0xffn & 0xffffffffn);
  return `${major}:${minor}`;
}

function giveUp(identity: string): void {
  const sharers = openers.get(identity) ?? 0;
  if (sharers > 1) openers.set(identity, sharers - 1);
  else openers.delete(identity);
}
