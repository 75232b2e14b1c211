import { existsSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { ControlClient, parseControlAddress, type Strategy } from 'cofferdam';
import { longestStallMs } from '#src/backup/image/record';
import { windBack } from './backups.js';
import { program } from './effort.js';
import type { ServingSystem } from './served-disks.js';
import { startServing } from './serving-program.js';

const strategies: readonly Strategy[] = ['snapshot', 'rolling', 'hold'];

/** `cofferdam serve`, asked for backups through its control API. */
export const cofferdamDisks: ServingSystem = {
  name: 'cofferdam',
  ways: strategies,

  async serve(disks, directory) {
    const [socket, control, config] = ['nbd.sock', 'control.sock', 'cluster.json'].map(directory.file);
    if (socket === undefined || control === undefined || config === undefined) throw new Error('no path');
    const servers = disks.map(({ path }, i) => {
      return { id: `disk${i}`, device: path, preImages: { directory: directory.path } };
    });
    await writeFile(config, JSON.stringify({ listen: `nbd+unix:///?socket=${socket}`, control, servers }));
    const running = await startServing(process.execPath, [program, 'serve', config], socket);
    const client = new ControlClient({ address: parseControlAddress(control) });
    const to = directory.file('backup.cofferdam');
    return {
      uris: servers.map(({ id }) => `nbd+unix:///${id}?socket=${socket}`),
      async backUp(way) {
        const strategy = strategies.find((name) => name === way);
        if (!strategy) throw new Error(`there is no strategy ${way}`);
        if (existsSync(to)) await windBack(to);
        const { signal } = new AbortController();
        const { elapsedMs, cut } = await client.backup({ to, strategy }, { signal });
        return { elapsedMs, stallMs: longestStallMs(cut) };
      },
      async [Symbol.asyncDispose]() {
        await client.close();
        await running[Symbol.asyncDispose]();
        await rm(to, { force: true });
      },
    };
  },
};
