import type {
  BlockDevice,
  Capabilities,
  Extent,
  WriteOptions,
  WriteZeroesOptions,
} from '#src/devices/block-device';
import { SECTOR_BYTES } from '#src/runtime/sizes';
import { INITIAL } from '#src/witness/contents';
import { readStamp } from '#src/witness/stamp';

/**
 * A device that the witness writes to, with what its clients were told of every sector.
 *
 * Invariant: `answered` and `durable` have the last write of a sector that was answered, and that a later flush, or the
 * write itself, made durable. Both only grow, since the witness never has two writes of a sector outstanding.
 */
export class ObservedDevice implements BlockDevice {
  readonly answered: Int32Array;
  readonly durable: Int32Array;
  flushes = 0;
  failures = 0;
  firstFailure: unknown;
  readonly nativeSource = undefined;

  constructor(
    private readonly inner: BlockDevice,
    /** Makes every write durable before it is answered, so that a history has no write that a fault may take. */
    private readonly everyWriteDurable: boolean,
  ) {
    const sectors = inner.sizeBytes / SECTOR_BYTES;
    this.answered = new Int32Array(sectors).fill(INITIAL);
    this.durable = new Int32Array(sectors).fill(INITIAL);
  }

  get name(): string {
    return this.inner.name;
  }

  get sizeBytes(): number {
    return this.inner.sizeBytes;
  }

  get capabilities(): Capabilities {
    return this.inner.capabilities;
  }

  read(offsetBytes: number, into: Uint8Array): Promise<void> {
    return this.#observed(this.inner.read(offsetBytes, into));
  }

  async write(offsetBytes: number, bytes: Uint8Array, { fua = false }: WriteOptions = {}): Promise<void> {
    const isDurable = fua || this.everyWriteDurable;
    await this.#observed(this.inner.write(offsetBytes, bytes, { fua: isDurable }));
    const stamp = readStamp(bytes.subarray(0, SECTOR_BYTES));
    if (typeof stamp === 'string') throw new Error(`the witness wrote a sector of ${stamp}`);
    const first = offsetBytes / SECTOR_BYTES;
    const end = first + bytes.length / SECTOR_BYTES;
    this.answered.fill(stamp.sequence, first, end);
    if (isDurable) this.durable.fill(stamp.sequence, first, end);
  }

  async flush(): Promise<void> {
    const before = this.answered.slice();
    await this.#observed(this.inner.flush());
    this.flushes++;
    for (const [sector, sequence] of before.entries()) {
      if (sequence > (this.durable[sector] ?? INITIAL)) this.durable[sector] = sequence;
    }
  }

  trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.#observed(this.inner.trim(offsetBytes, lengthBytes));
  }

  writeZeroes(offsetBytes: number, lengthBytes: number, options?: WriteZeroesOptions): Promise<void> {
    return this.#observed(this.inner.writeZeroes(offsetBytes, lengthBytes, options));
  }

  allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    return this.#observed(this.inner.allocation(offsetBytes, lengthBytes));
  }

  close(): Promise<void> {
    return this.inner.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #observed<T>(request: Promise<T>): Promise<T> {
    try {
      return await request;
    } catch (error) {
      this.failures++;
      this.firstFailure ??= error;
      throw error;
    }
  }
}
