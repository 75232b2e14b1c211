import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';
import { runCli } from '../support/cli.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/directory.js';
import { mountFileSystem, mountNeeds } from '../support/file-system.js';
import { needs } from '../support/needs.js';
import { startCli } from '../support/served.js';

const backups = Number(process.env['RUNS'] ?? 10);
const servers = ['a', 'b', 'c'];

/** A cluster of three files with a volume striped over them. */
async function writeCluster(directory: TemporaryDirectory, name: string, folder: string): Promise<string> {
  const path = directory.file(`${name}.yaml`);
  const lines = servers.map(
    (id) => `  - { id: ${id}, device: { kind: file, path: ${folder}/${id}.img, create: 64MiB } }`,
  );
  await writeFile(
    path,
    [
      `listen: nbd+unix:///?socket=${name}.sock`,
      `control: ${name}-control.sock`,
      'servers:',
      ...lines,
      'volumes:',
      '  - { id: data, kind: striped, stripe: 64KiB, of: [a, b, c] }',
      '',
    ].join('\n'),
  );
  return path;
}

/** A process that writes files, and what it says is durable: names and hashes. */
class Writer {
  readonly durable = new Map<string, string>();
  readonly #child;
  readonly #stderr: Promise<string>;
  readonly #ended: Promise<unknown[]>;

  constructor(folder: string, name: string) {
    const script = fileURLToPath(new URL('file-writer.mjs', import.meta.url));
    this.#child = spawn(process.execPath, [script, folder, name], { stdio: ['pipe', 'pipe', 'pipe'] });
    this.#stderr = text(this.#child.stderr);
    this.#ended = once(this.#child, 'close');
    createInterface(this.#child.stdout).on('line', (line) => {
      const [file = '', hash = ''] = line.split(' ');
      this.durable.set(file, hash);
    });
  }

  async stop(): Promise<void> {
    this.#child.stdin.end('stop');
    const [exitCode] = await this.#ended;
    expect(exitCode, await this.#stderr).toBe(0);
  }
}

async function expectFiles(folder: string, files: ReadonlyMap<string, string>): Promise<void> {
  const wrong: string[] = [];
  for (const [name, hash] of files) {
    const found = await readFile(join(folder, name)).catch(() => Buffer.from('missing'));
    if (createHash('sha256').update(found).digest('hex') !== hash) wrong.push(name);
  }
  expect(wrong).toEqual([]);
}

needs(...mountNeeds)(
  'every backup of a file system in use has every file that was synced before it began',
  async () => {
    await using directory = temporaryDirectory();
    const image = directory.file('image.cofferdam');
    const cluster = await writeCluster(directory, 'live', '.');
    /** What was durable when each backup began. */
    const durable: Map<string, string>[] = [];
    {
      await using served = await startCli(['serve', cluster]);
      await using fileSystem = await mountFileSystem(served.uriOf('data'), { make: true });
      const writers = ['x', 'y', 'z'].map((name) => new Writer(fileSystem.path, name));
      await expect.poll(() => writers.every((writer) => writer.durable.size > 3)).toBe(true);
      for (let i = 0; i < backups; i++) {
        durable.push(new Map(writers.flatMap((writer) => [...writer.durable])));
        const { exitCode, stderr } = await runCli(['backup', '--to', image, '--cluster', cluster]);
        expect(exitCode, stderr).toBe(0);
      }
      for (const writer of writers) await writer.stop();
      await fileSystem.check();
      expect(await served.stop()).toMatchObject({ exitCode: 0 });
    }
    for (const [index, files] of durable.entries()) {
      expect(files.size).toBeGreaterThan(index === 0 ? 0 : (durable[index - 1]?.size ?? 0));
      const restored = await runCli([
        'restore',
        image,
        '--generation',
        String(index + 1),
        '--to-dir',
        directory.file('restored'),
      ]);
      expect(restored.exitCode, restored.stderr).toBe(0);
      {
        const again = await writeCluster(directory, 'again', 'restored');
        await using served = await startCli(['serve', again]);
        // Mounting replays the journal.
        await using fileSystem = await mountFileSystem(served.uriOf('data'));
        await expectFiles(fileSystem.path, files);
        await fileSystem.check();
      }
      await rm(directory.file('restored'), { recursive: true });
    }
    console.log(
      `${backups} backups, with ${durable.map((files) => files.size).join(', ')} files known to be durable`,
    );
  },
  300_000,
);
