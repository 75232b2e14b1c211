import { execFile } from 'node:child_process';
import { open, rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { backup, openCluster } from 'cofferdam';
import { DATA_START } from '#src/backup/image/layout';
import { openImage } from '#src/backup/image/open';
import type { CopyPool } from '#src/backup/pool';
import { findTool } from '#src/cli/demo/tool';

/** Copies a disk image. When it has done so the copy is durable. */
export interface WayToCopy {
  name: string;
  /** The target must be there, as long as the source. */
  needsTarget?: boolean;
  copy(source: string, target: string): Promise<unknown>;
  /** Makes the next copy to a target that has one overwrite it, if it would not do so by itself. */
  windBack?(target: string): Promise<void>;
}

const execute = promisify(execFile);
const program = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));

/** The whole command, Node starting included. */
export const backupCommand: WayToCopy = {
  name: 'cofferdam',
  copy: (source, target) =>
    execute(process.execPath, [program, 'backup', '--to', target, '--device', `disk=${source}`]),
  windBack,
};

/** The function, in this process. */
export function backupFunction(pool: CopyPool): WayToCopy {
  return {
    name: 'backup()',
    async copy(source, target) {
      await using cluster = await openCluster({
        servers: [{ id: 'disk', device: { kind: 'file', path: source, readOnly: true } }],
      });
      await backup({ servers: cluster.servers, to: target, pool });
    },
    windBack,
  };
}

/** Lets an image forget its generations, so that the next one is put where the first was. */
async function windBack(target: string): Promise<void> {
  const blank = `${target}.blank`;
  await (await openImage(blank, { write: true, create: true })).close();
  const head = new Uint8Array(DATA_START);
  {
    await using file = await open(blank, 'r');
    await file.read(head, 0, head.length, 0);
  }
  await rm(blank);
  await using file = await open(target, 'r+');
  await file.write(head, 0, head.length, 0);
  await file.sync();
}

const peers: readonly { name: string; tool: string; command: string; needsTarget?: boolean }[] = [
  { name: 'cp', tool: 'cp', command: 'cp' },
  { name: 'cp --sparse=always', tool: 'cp', command: 'cp --sparse=always' },
  {
    name: 'qemu-img convert',
    tool: 'qemu-img',
    command: 'qemu-img convert -f raw -O raw -n -m 8 -W',
    needsTarget: true,
  },
  { name: 'nbdcopy', tool: 'nbdcopy', command: 'nbdcopy', needsTarget: true },
];

/** The others that this machine has. */
export async function installedPeers(): Promise<WayToCopy[]> {
  const found: WayToCopy[] = [];
  for (const { name, tool, command, needsTarget = false } of peers) {
    if (!(await findTool(tool))) continue;
    const script = `${command} "$0" "$1" && sync "$1"`;
    found.push({
      name,
      needsTarget,
      copy: (source, target) => execute('sh', ['-c', script, source, target]),
    });
  }
  return found;
}
