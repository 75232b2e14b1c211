import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { chmod, readlink, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { temporaryDirectory, type TemporaryDirectory } from './directory.js';
import { run } from './loop-device.js';

const versions = '/usr/lib/postgresql';

/** Where the newest PostgreSQL of Debian has its programs. */
function programs(): string {
  const newest = readdirSync(versions).toSorted((a, b) => Number(b) - Number(a))[0] ?? '';
  return join(versions, newest, 'bin');
}

/** What tests with PostgreSQL need. */
export const postgresNeeds = ['root', 'setpriv', versions] as const;

/** A PostgreSQL server whose data and log are in two folders; it listens on a Unix socket alone. */
export class Postgres implements AsyncDisposable {
  readonly #data: string;
  readonly #sockets: TemporaryDirectory;

  private constructor(data: string, sockets: TemporaryDirectory) {
    this.#data = data;
    this.#sockets = sockets;
  }

  /** Makes a new one. Both folders are mount points. */
  static async create(dataFolder: string, logFolder: string): Promise<Postgres> {
    for (const folder of [dataFolder, logFolder]) await run('chown', 'postgres:postgres', folder);
    const data = join(dataFolder, 'pgdata');
    await asPostgres(
      'initdb',
      '-D',
      data,
      '--waldir',
      join(logFolder, 'wal'),
      '-A',
      'trust',
      '--no-instructions',
    );
    return await Postgres.start(data);
  }

  /** Starts one from copies of both folders, in other places. It recovers if it has to. */
  static async restart(dataFolder: string, logFolder: string): Promise<Postgres> {
    const data = join(dataFolder, 'pgdata');
    const link = join(data, 'pg_wal');
    await readlink(link);
    await rm(link);
    await symlink(join(logFolder, 'wal'), link);
    // Its process did not end in order.
    await rm(join(data, 'postmaster.pid'), { force: true });
    return await Postgres.start(data);
  }

  private static async start(data: string): Promise<Postgres> {
    const sockets = temporaryDirectory();
    await chmod(sockets.path, 0o777);
    const settings = `-k ${sockets.path} -h '' -c max_wal_size=64MB -c checkpoint_timeout=30s`;
    const log = sockets.file('log');
    try {
      await asPostgres('pg_ctl', '-D', data, '-o', settings, '-l', log, '-w', '-t', '60', 'start');
    } catch (error) {
      const said = existsSync(log) ? await run('cat', log) : '';
      await sockets[Symbol.asyncDispose]();
      throw new Error(`PostgreSQL does not start: ${said}`, { cause: error });
    }
    return new Postgres(data, sockets);
  }

  /** Runs one of its programs, for example pgbench. */
  run(program: string, ...args: string[]): Promise<string> {
    return asPostgres(program, '-h', this.#sockets.path, ...args);
  }

  query(sql: string): Promise<string> {
    return this.run('psql', '-X', '-A', '-t', '-c', sql, 'postgres');
  }

  /** Inserts 1, 2, 3, ... into a table `ledger`, one transaction each, until it is told to stop. */
  async keepLedger(): Promise<Ledger> {
    await this.query('create table ledger (entry bigint primary key)');
    return new Ledger(this.#sockets.path);
  }

  async stop(): Promise<void> {
    await asPostgres('pg_ctl', '-D', this.#data, '-m', 'fast', '-w', 'stop');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await asPostgres('pg_ctl', '-D', this.#data, '-m', 'immediate', '-w', 'stop').catch(() => {});
    await this.#sockets[Symbol.asyncDispose]();
  }
}

/** A client that commits one number after the other. */
export class Ledger {
  /** The last number that was committed, as the client was told. */
  committed = 0;
  readonly #child;
  readonly #stderr: Promise<string>;
  readonly #ended: Promise<unknown[]>;
  #isStopping = false;

  constructor(sockets: string) {
    const psql = ['-X', '-A', '-t', '-q', '-v', 'ON_ERROR_STOP=1', '-h', sockets, 'postgres'];
    this.#child = spawn('setpriv', [...unprivileged, join(programs(), 'psql'), ...psql]);
    this.#stderr = text(this.#child.stderr);
    this.#ended = once(this.#child, 'close');
    createInterface(this.#child.stdout).on('line', (line) => {
      this.committed = Number(line);
      this.#next();
    });
    this.#next();
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    const [exitCode] = await this.#ended;
    if (exitCode !== 0) throw new Error(`the ledger's client failed: ${await this.#stderr}`);
  }

  #next(): void {
    if (this.#isStopping) this.#child.stdin.end();
    else this.#child.stdin.write(`insert into ledger values (${this.committed + 1}) returning entry;\n`);
  }
}

const unprivileged = ['--reuid', 'postgres', '--regid', 'postgres', '--clear-groups'];

function asPostgres(program: string, ...args: string[]): Promise<string> {
  return run('setpriv', ...unprivileged, join(programs(), program), ...args);
}
