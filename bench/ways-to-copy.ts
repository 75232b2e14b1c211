import { findTool } from '#src/cli/demo/tool';
import type { BareCopier } from './bare-copy.js';
import { effortOfCall, effortOfCommand, type Effort } from './effort.js';

/** A way to make a copy of a disk image, or of what a backup of it holds. When it has done so the copy is durable. */
export interface WayToCopy {
  name: string;
  /** What it reads: a path. */
  source: string;
  /** The target must be there, as long as the disk image. */
  needsTarget?: boolean;
  copy(target: string): Promise<Effort>;
  /** Makes the next copy to a target that has one overwrite it, if it would not do so by itself. */
  windBack?(target: string): Promise<void>;
}

interface Peer {
  name: string;
  tool: string;
  command: string;
  needsTarget?: boolean;
}

export const qemuImg: Peer = {
  name: 'qemu-img convert',
  tool: 'qemu-img',
  command: 'qemu-img convert -f raw -O raw -n -m 8 -W',
  needsTarget: true,
};

export const copyPeers: readonly Peer[] = [
  { name: 'cp', tool: 'cp', command: 'cp' },
  { name: 'cp --sparse=always', tool: 'cp', command: 'cp --sparse=always' },
  qemuImg,
  { name: 'nbdcopy', tool: 'nbdcopy', command: 'nbdcopy', needsTarget: true },
];

/** Those of the peers that this machine has, copying one disk image; of the others it is noted that they are missing. */
export async function waysOfPeers(
  peers: readonly Peer[],
  source: string,
  note: (text: string) => void,
): Promise<WayToCopy[]> {
  const ways: WayToCopy[] = [];
  for (const { name, tool, command, needsTarget = false } of peers) {
    if (!(await isInstalled(tool, note))) continue;
    const copy = (target: string): Promise<Effort> =>
      effortOfCommand(`${command} "$1" "$2" && sync "$2"`, [source, target]);
    ways.push({ name, source, needsTarget, copy });
  }
  return ways;
}

/** Whether this machine has a program to compare with; if not, it is noted. */
export async function isInstalled(tool: string, note: (text: string) => void): Promise<boolean> {
  const isThere = (await findTool(tool)) !== undefined;
  if (!isThere) note(`there is no ${tool} on the PATH: left out`);
  return isThere;
}

/** The ceiling: nothing but reading and writing. */
export function bareCopy(copier: BareCopier, source: string, sizeBytes: number): WayToCopy {
  return {
    name: 'bare read and write',
    source,
    copy: (target) => effortOfCall(() => copier.copy(source, target, sizeBytes)),
  };
}
