import { findTool } from '#src/cli/demo/tool';
import type { BareCopier } from './bare-copy.js';
import type { DiskImage } from './disk-images.js';
import { effortOfCall, effortOfCommand, type Effort } from './effort.js';

/** A way to copy disk images, or what a backup of them holds. When it has done so the copy is durable. */
export interface WayToCopy {
  name: string;
  /** What it reads: paths. */
  sources: readonly string[];
  /** One per file that it writes: how long it must be before, in bytes; undefined: it need not be there. */
  targets: readonly (number | undefined)[];
  copy(targets: readonly string[]): Promise<Effort>;
  /** Makes the next copy to targets that have one overwrite it, if it would not do so by itself. */
  windBack?(targets: readonly string[]): Promise<void>;
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

/**
 * Those of the peers that this machine has, copying disk images one after the other; of the others it is noted that they are
 * missing.
 */
export async function waysOfPeers(
  peers: readonly Peer[],
  images: readonly DiskImage[],
  note: (text: string) => void,
): Promise<WayToCopy[]> {
  const ways: WayToCopy[] = [];
  for (const { name, tool, command, needsTarget = false } of peers) {
    if (!(await isInstalled(tool, note))) continue;
    const sources = images.map(({ path }) => path);
    const script =
      `count=${sources.length}; for ((i = 1; i <= count; i++)); do ` +
      `${command} "\${@:i:1}" "\${@:count + i:1}" || exit; done; sync "\${@:count + 1}"`;
    ways.push({
      name,
      sources,
      targets: images.map(({ sizeBytes }) => (needsTarget ? sizeBytes : undefined)),
      copy: (targets) => effortOfCommand(script, [...sources, ...targets]),
    });
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
export function bareCopy(copier: BareCopier, images: readonly DiskImage[]): WayToCopy {
  return {
    name: 'bare read and write',
    sources: images.map(({ path }) => path),
    targets: images.map(() => undefined),
    copy: (targets) =>
      effortOfCall(async () => {
        for (const [i, { path, sizeBytes }] of images.entries()) {
          await copier.copy(path, targets[i] ?? '', sizeBytes);
        }
      }),
  };
}
