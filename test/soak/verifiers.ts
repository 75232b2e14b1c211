import type { Random } from '#src/runtime/random';
import { KiB, MiB } from '#src/runtime/sizes';
import { runFio } from '../support/fio.js';
import { runProcess } from '../support/process.js';
import type { Counts } from './counts.js';

const FIO_BYTES = 12 * MiB;
const FIO_JOB_BYTES = 4 * MiB;
const SLOT_BYTES = 64 * KiB;
const SLOTS = 32;

/** Clients that nobody here wrote: fio and qemu-io, on parts of their own of one volume, each checking what it reads. */
export class Verifiers {
  /** What qemu-io has flushed into each of its slots. A slot that it is writing to is not in here. */
  readonly #flushed = new Map<number, number>();
  #isStopping = false;
  #running: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly random: Random,
    private readonly counts: Counts,
  ) {}

  /** Checks that what was flushed is still there, and begins to write. */
  async start(uri: string): Promise<void> {
    this.#isStopping = false;
    this.#running = Promise.resolve();
    await this.#checkFlushed(uri);
    this.#running = this.#run(uri).then(
      () => undefined,
      (error: unknown) => error,
    );
  }

  /** Ends what is under way in order. @returns what any of it failed with. */
  async stop(): Promise<unknown> {
    this.#isStopping = true;
    return await this.#running;
  }

  async #run(uri: string): Promise<void> {
    while (!this.#isStopping) {
      const { reads, writes } = await runFio(uri, {
        rw: 'randwrite',
        bs: this.random.pick(['4k', '16k', '1k-32k']),
        iodepth: 8,
        offset: this.random.below(FIO_BYTES / FIO_JOB_BYTES) * FIO_JOB_BYTES,
        size: FIO_JOB_BYTES,
        randseed: this.random.uint32(),
        rate_iops: 800,
        verify: 'crc32c',
        verify_fatal: 1,
        do_verify: 1,
      });
      this.counts.clients.writes += writes;
      this.counts.clients.verifiedReads += reads;
      await this.#writeSlot(uri);
    }
  }

  async #writeSlot(uri: string): Promise<void> {
    const slot = this.random.below(SLOTS);
    const pattern = 1 + this.random.below(255);
    this.#flushed.delete(slot);
    await qemuIo(uri, [`write -P ${pattern} ${place(slot)}`, 'flush', `read -P ${pattern} ${place(slot)}`]);
    this.#flushed.set(slot, pattern);
    this.counts.clients.writes++;
    this.counts.clients.flushes++;
    this.counts.clients.verifiedReads++;
  }

  async #checkFlushed(uri: string): Promise<void> {
    const reads = [...this.#flushed].map(([slot, pattern]) => `read -P ${pattern} ${place(slot)}`);
    if (reads.length > 0) await qemuIo(uri, reads);
    this.counts.clients.verifiedReads += reads.length;
  }
}

function place(slot: number): string {
  return `${FIO_BYTES + slot * SLOT_BYTES} ${SLOT_BYTES}`;
}

async function qemuIo(uri: string, commands: readonly string[]): Promise<void> {
  const args = commands.flatMap((command) => ['-c', command]);
  const { exitCode, stdout, stderr } = await runProcess('qemu-io', ['-f', 'raw', ...args, uri]);
  const said = `${stdout}${stderr}`;
  if (exitCode !== 0 || /failed/i.test(said)) throw new Error(`qemu-io failed: ${said}`);
}
