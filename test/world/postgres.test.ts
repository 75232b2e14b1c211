import { chmod, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { expect } from 'vitest';
import { runCli } from '../support/cli.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/directory.js';
import { mountFileSystem, mountNeeds, type FileSystem } from '../support/file-system.js';
import { needs } from '../support/needs.js';
import { Postgres, postgresNeeds } from '../support/postgres.js';
import { startCli } from '../support/served.js';

const backups = Number(process.env['RUNS'] ?? 4);

/** A cluster of two servers: one for the data, one for the log. */
async function writeCluster(directory: TemporaryDirectory, name: string, folder: string): Promise<string> {
  const path = directory.file(`${name}.yaml`);
  const server = (id: string): string =>
    `  - { id: ${id}, device: { kind: file, path: ${folder}/${id}.img, create: 256MiB } }\n`;
  await writeFile(
    path,
    `listen: nbd+unix:///?socket=${name}.sock\ncontrol: ${name}-control.sock\nservers:\n${server('data')}${server('log')}`,
  );
  return path;
}

/** Mounted where an unprivileged user may go. */
async function mountOpen(uri: string, options?: { make?: boolean }): Promise<FileSystem> {
  const fileSystem = await mountFileSystem(uri, options);
  await chmod(dirname(fileSystem.path), 0o755);
  return fileSystem;
}

/** Transactions of pgbench until it is told to stop, however long the backups take. */
class Load {
  readonly #postgres: Postgres;
  readonly #ended: Promise<void>;
  #isStopping = false;

  constructor(postgres: Postgres) {
    this.#postgres = postgres;
    this.#ended = this.#run();
    // Looked at by whoever stops it.
    this.#ended.catch(() => {});
  }

  /** How many there were. */
  async transactions(): Promise<number> {
    return Number(await this.#postgres.query('select count(*) from pgbench_history'));
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    await this.#ended;
  }

  async #run(): Promise<void> {
    // Each leaves what the one before has noted.
    while (!this.#isStopping) await this.#postgres.run('pgbench', '-n', '-c', '2', '-T', '2', 'postgres');
  }
}

/** What is wrong with a restored pair, if anything. */
async function examine(directory: TemporaryDirectory, committed: number): Promise<string | undefined> {
  await using served = await startCli(['serve', await writeCluster(directory, 'again', 'restored')]);
  try {
    await using data = await mountOpen(served.uriOf('data'));
    await using log = await mountOpen(served.uriOf('log'));
    await using postgres = await Postgres.restart(data.path, log.path);
    await postgres.run('pg_amcheck', '--install-missing', '--heapallindexed', '-a');
    const [count, last] = (await postgres.query('select count(*), max(entry) from ledger'))
      .trim()
      .split('|')
      .map(Number);
    await postgres.stop();
    if (count !== last) return `the ledger has gaps: ${count} entries up to ${last}`;
    return (last ?? 0) < committed ? `${committed} were committed, and ${last} are there` : undefined;
  } catch (error) {
    return String(error);
  }
}

needs(...mountNeeds, ...postgresNeeds)(
  'every backup of a database on two devices starts, recovers, and has all that was committed before it',
  async () => {
    await using directory = temporaryDirectory();
    const image = directory.file('image.cofferdam');
    const cluster = await writeCluster(directory, 'live', '.');
    const committed: number[] = [];
    {
      await using served = await startCli(['serve', cluster]);
      await using data = await mountOpen(served.uriOf('data'), { make: true });
      await using log = await mountOpen(served.uriOf('log'), { make: true });
      await using postgres = await Postgres.create(data.path, log.path);
      await postgres.run('pgbench', '-i', '-q', 'postgres');
      const ledger = await postgres.keepLedger();
      const load = new Load(postgres);
      await expect.poll(() => ledger.committed).toBeGreaterThan(10);
      await expect.poll(() => load.transactions()).toBeGreaterThan(10);
      for (let i = 0; i <= backups; i++) {
        const isLast = i === backups;
        committed.push(ledger.committed);
        const transactions = await load.transactions();
        const { exitCode, stderr } = await runCli([
          'backup',
          '--to',
          image,
          '--cluster',
          cluster,
          ...(isLast ? ['--strategy', 'rolling', '--no-closing-cut'] : []),
        ]);
        expect(exitCode, stderr).toBe(0);
        await expect.poll(() => ledger.committed).toBeGreaterThan((committed.at(-1) ?? 0) + 10);
        await expect.poll(() => load.transactions()).toBeGreaterThan(transactions + 10);
      }
      await ledger.stop();
      await load.stop();
      await postgres.stop();
      expect(await served.stop()).toMatchObject({ exitCode: 0 });
    }
    for (const [index, count] of committed.entries()) {
      const restored = await runCli([
        'restore',
        image,
        '--generation',
        String(index + 1),
        '--to-dir',
        directory.file('restored'),
      ]);
      expect(restored.exitCode, restored.stderr).toBe(0);
      const fault = await examine(directory, count);
      // One barrier after the other promises nothing for the two together: what came of it is only noted.
      if (index === backups)
        console.log(`rolling without its closing cut: ${fault ?? 'nothing wrong this time'}`);
      else expect(fault, `generation ${index + 1}`).toBeUndefined();
      await rm(directory.file('restored'), { recursive: true });
    }
    console.log(`${committed.join(', ')} entries known to be committed`);
  },
  300_000,
);
