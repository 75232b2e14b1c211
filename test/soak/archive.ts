import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { GenerationDevice, openImage, type BackupImage, type GenerationRecord } from 'cofferdam';
import { MiB } from '#src/runtime/sizes';
import { runCli } from '../support/cli.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/directory.js';
import type { Counts } from './counts.js';

/** An image that holds so many generations is checked for the last time, and another one begun. */
const MOST_GENERATIONS = 8;

/** Digests of the devices of a generation, by ID. */
type Digests = ReadonlyMap<string, string>;

/**
 * A backup image, and what is known of it.
 *
 * Invariant: `kept` has every generation that was ever seen in the image, with what its devices held then.
 */
export class Archive {
  readonly #kept = new Map<number, Digests>();
  #number = 1;

  constructor(
    private readonly name: string,
    private readonly directory: TemporaryDirectory,
    private readonly counts: Counts,
  ) {}

  get path(): string {
    return this.directory.file(`${this.name}-${this.#number}.cofferdam`);
  }

  get generations(): readonly number[] {
    return [...this.#kept.keys()];
  }

  /**
   * Takes note of the generations that are new, while no backup is under way.
   *
   * @throws Error if one that was there is gone.
   */
  async adopt(): Promise<number[]> {
    if (!existsSync(this.path)) return this.#expectAll([]);
    await using image = await openImage(this.path);
    const found = image.generations.map(({ generation }) => generation);
    this.#expectAll(found);
    const fresh = found.filter((generation) => !this.#kept.has(generation));
    for (const generation of fresh) this.#kept.set(generation, await digestsOf(image, generation));
    return fresh;
  }

  /** Reads a generation. */
  async read<T>(
    generation: number,
    use: (image: BackupImage, record: GenerationRecord) => Promise<T>,
  ): Promise<T> {
    await using image = await openImage(this.path);
    return await use(image, await image.record(generation));
  }

  /** @throws Error if anything is wrong with any generation. */
  async verify(): Promise<void> {
    if (this.#kept.size === 0) return;
    const { exitCode, stdout, stderr } = await runCli(['verify', this.path, '--json']);
    if (exitCode !== 0) throw new Error(`${this.path} does not verify: ${stderr}`);
    const { generations } = JSON.parse(stdout) as { generations: { generation: number }[] };
    this.#expectAll(generations.map(({ generation }) => generation));
    this.counts.generations.verified += generations.length;
  }

  /** @throws Error if a generation cannot be restored, or its devices are not what they were when it was committed. */
  async restore(generation: number): Promise<void> {
    await using directory = temporaryDirectory({ inMemory: true });
    const args = ['restore', this.path, '--generation', String(generation), '--to-dir', directory.path];
    const { exitCode, stderr } = await runCli(args);
    if (exitCode !== 0)
      throw new Error(`generation ${generation} of ${this.path} does not restore: ${stderr}`);
    for (const [id, digest] of this.#kept.get(generation) ?? []) {
      const hash = createHash('sha256');
      await pipeline(createReadStream(directory.file(`${id}.img`)), hash);
      if (hash.digest('hex') !== digest)
        throw new Error(
          `${id} of generation ${generation} of ${this.path} is not what it was when it was committed`,
        );
    }
    this.counts.generations.restored++;
  }

  /** Begins another image when this one is full, after a last look at every generation. */
  async turnOver(): Promise<void> {
    if (this.#kept.size >= MOST_GENERATIONS) await this.retire();
  }

  /** Checks every generation for the last time, and removes the image. */
  async retire(): Promise<void> {
    await this.verify();
    for (const generation of this.generations) await this.restore(generation);
    await rm(this.path, { force: true });
    this.#kept.clear();
    this.#number++;
  }

  #expectAll(found: readonly number[]): number[] {
    const lost = this.generations.find((generation) => !found.includes(generation));
    if (lost !== undefined) throw new Error(`generation ${lost} of ${this.path} is gone`);
    return [];
  }
}

async function digestsOf(image: BackupImage, generation: number): Promise<Digests> {
  const record = await image.record(generation);
  const digests = new Map<string, string>();
  for (const { id } of record.devices) {
    const device = new GenerationDevice(image, record, id);
    const hash = createHash('sha256');
    for (let offset = 0; offset < device.sizeBytes; offset += MiB) {
      const bytes = Buffer.alloc(Math.min(MiB, device.sizeBytes - offset));
      await device.read(offset, bytes);
      hash.update(bytes);
    }
    digests.set(id, hash.digest('hex'));
  }
  return digests;
}
