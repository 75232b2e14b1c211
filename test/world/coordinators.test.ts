import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { ControlClient, NbdDevice } from 'cofferdam';
import { program, runCli } from '../support/cli.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/directory.js';
import { startCli, type ServedCli } from '../support/served.js';

/** Two servers in two processes, each full of data so that a limited backup takes long. */
interface TwoProcesses extends AsyncDisposable {
  directory: TemporaryDirectory;
  cluster: string;
  a: ServedCli;
  b: ServedCli;
  control: Record<'a' | 'b', ControlClient>;
}

async function twoProcesses(): Promise<TwoProcesses> {
  const directory = temporaryDirectory();
  const cluster = directory.file('cluster.yaml');
  const server = (id: string): string =>
    `  - { id: ${id}, device: ${id}.img, faults: true, listen: 'nbd+unix:///?socket=${id}.sock', control: ${id}-control.sock }\n`;
  await writeFile(cluster, `servers:\n${server('a')}${server('b')}`);
  for (const id of ['a', 'b']) await writeFile(directory.file(`${id}.img`), Buffer.alloc(16 * 2 ** 20, id));
  const [a, b] = await Promise.all([
    startCli(['serve', cluster, '--only', 'a']),
    startCli(['serve', cluster, '--only', 'b']),
  ]);
  const client = (id: string): ControlClient =>
    new ControlClient({ address: { kind: 'unix', path: directory.file(`${id}-control.sock`) } });
  const control = { a: client('a'), b: client('b') };
  return {
    directory,
    cluster,
    a,
    b,
    control,
    async [Symbol.asyncDispose]() {
      await Promise.all([control.a.close(), control.b.close()]);
      await Promise.all([a.kill(), b.kill()]);
      await directory[Symbol.asyncDispose]();
    },
  };
}

/** A client that writes one sector after the other until it is stopped. */
class Client {
  written = 0;
  readonly #device: NbdDevice;
  readonly #ended: Promise<void>;
  #isStopping = false;

  private constructor(device: NbdDevice) {
    this.#device = device;
    this.#ended = this.#run();
    // Looked at by whoever stops it.
    this.#ended.catch(() => {});
  }

  static async of(served: ServedCli, name: string): Promise<Client> {
    return new Client(await NbdDevice.open(served.uriOf(name)));
  }

  /** @throws what went wrong with any write. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    await this.#ended;
    await this.#device.close();
  }

  async #run(): Promise<void> {
    const sector = Buffer.alloc(512);
    while (!this.#isStopping) {
      sector.writeUInt32LE(this.written);
      await this.#device.write((this.written % 1000) * 512, sector);
      this.written++;
    }
  }
}

async function goesOn(client: Client): Promise<void> {
  const before = client.written;
  await expect.poll(() => client.written).toBeGreaterThan(before + 10);
}

/** How long a barrier stays at most when nobody renews its lease, without `--max-stall`. */
const LEASE_MS = 10_000;

/** For whatever else takes time on a machine that is busy. */
const MARGIN_MS = 5_000;

/** For clients whose writes wait behind a barrier that nobody renews: they are answered when the lease is over, and not much later. */
async function goesOnWithinLease(client: Client): Promise<void> {
  const before = client.written;
  await expect
    .poll(() => client.written, { timeout: LEASE_MS + MARGIN_MS, interval: 100 })
    .toBeGreaterThan(before);
}

/** A backup that takes long, in a process of its own. */
function slowBackup(
  two: TwoProcesses,
  ...options: string[]
): { kill(): Promise<void>; ended: Promise<number | null> } {
  const args = ['backup', '--to', 'image', '--cluster', two.cluster, '--limit', '1MiB/s', ...options];
  const child = spawn(process.execPath, [program, ...args], { cwd: two.directory.path, stdio: 'ignore' });
  const ended = once(child, 'exit').then(([code]) => code as number | null);
  return {
    ended,
    kill: async () => {
      child.kill('SIGKILL');
      await ended;
    },
  };
}

async function barrierUp(two: TwoProcesses, id: 'a' | 'b'): Promise<boolean> {
  return (await two.control[id].status()).servers[0]?.barrierUp ?? false;
}

/** Whatever happened to a backup, its image is whole and has no generation. */
async function expectNothingCommitted({ directory }: TwoProcesses): Promise<void> {
  const { exitCode, stdout, stderr } = await runCli(['list', 'image', '--json'], { cwd: directory.path });
  expect(exitCode, stderr).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ generations: [] });
}

describe('a cluster in two processes', () => {
  test('two coordinators at once: each has a whole backup or a clean failure, and clients notice nothing', async () => {
    await using two = await twoProcesses();
    const client = await Client.of(two.a, 'a');
    let whole = 0;
    for (let round = 0; round < 3; round++) {
      const results = await Promise.all(
        ['one', 'two'].map((image) =>
          runCli(['backup', '--to', image, '--cluster', two.cluster], { cwd: two.directory.path }),
        ),
      );
      for (const { exitCode, stderr } of results) {
        if (exitCode === 0) whole++;
        else expect(stderr).toMatch(/^cofferdam: (EPOCH_STALE|CUT_ABORTED|CUT_VOID): /);
      }
    }
    expect(whole).toBeGreaterThan(0);
    await goesOn(client);
    await client.stop();
    let generations = 0;
    for (const image of ['one', 'two']) {
      const { exitCode, stdout } = await runCli(['verify', image, '--json'], { cwd: two.directory.path });
      expect(exitCode).toBe(0);
      generations += (JSON.parse(stdout) as { generations: unknown[] }).generations.length;
    }
    expect(generations).toBe(whole);
    for (const id of ['a', 'b'] as const) {
      expect(await two.control[id].status()).toMatchObject({ servers: [{ barrierUp: false, snapshots: 0 }] });
    }
  });

  test('a coordinator that is killed while barriers are up leaves nobody waiting', async () => {
    await using two = await twoProcesses();
    const clients = [await Client.of(two.a, 'a'), await Client.of(two.b, 'b')];
    const backup = slowBackup(two, '--strategy', 'hold');
    await expect
      .poll(async () => (await barrierUp(two, 'a')) && (await barrierUp(two, 'b')), { timeout: 20_000 })
      .toBe(true);
    await backup.kill();
    await Promise.all(clients.map(goesOnWithinLease));
    for (const client of clients) await goesOn(client);
    for (const client of clients) await client.stop();
    await expectNothingCommitted(two);
    // What it was given goes with its leases.
    await expect
      .poll(async () => (await two.control.b.status()).servers[0], { timeout: 40_000, interval: 500 })
      .toMatchObject({ barrierUp: false, snapshots: 0 });
  }, 90_000);

  test('a server that is killed during the copy fails the backup, and no client of another server', async () => {
    await using two = await twoProcesses();
    const client = await Client.of(two.a, 'a');
    const backup = slowBackup(two);
    await expect
      .poll(async () => (await two.control.b.status()).servers[0]?.snapshots, { timeout: 20_000 })
      .toBe(1);
    await two.b.kill();
    expect(await backup.ended).toBe(1);
    await goesOn(client);
    await client.stop();
    await expectNothingCommitted(two);
    expect(await two.control.a.status()).toMatchObject({ servers: [{ barrierUp: false, snapshots: 0 }] });
  }, 90_000);

  test('a server that is killed during the cut fails the backup, and no client of another server', async () => {
    await using two = await twoProcesses();
    const client = await Client.of(two.a, 'a');
    // A write that hangs in the device keeps the drain of the second server waiting.
    await two.control.b.get(z.any(), {
      method: 'POST',
      path: '/v1/faults',
      body: { server: 'b', operation: 'write', fault: { hang: true } },
    });
    const hanging = await NbdDevice.open(two.b.uriOf('b'), { reconnectMs: 0 });
    const lost = hanging.write(0, new Uint8Array(512)).catch((error: unknown) => error);
    const backup = slowBackup(two, '--max-stall', '30s');
    await expect.poll(() => barrierUp(two, 'a')).toBe(true);
    await two.b.kill();
    expect(await backup.ended).toBe(1);
    expect(await lost).toMatchObject({ code: expect.stringMatching(/^CONNECTION_/) });
    await goesOn(client);
    await client.stop();
    await hanging.close();
    await expectNothingCommitted(two);
    expect(await two.control.a.status()).toMatchObject({ servers: [{ barrierUp: false, snapshots: 0 }] });
  }, 90_000);
});
