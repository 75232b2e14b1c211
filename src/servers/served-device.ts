import type { Batch } from '../core/core.js';
import type {
  BlockDevice,
  Capabilities,
  Extent,
  WriteOptions,
  WriteZeroesOptions,
} from '../devices/block-device.js';
import type { ByteRange } from '../devices/byte-range.js';
import { Lifetime } from '../devices/lifetime.js';
import type { NativeGate, NativeLane } from './native-gate.js';

/** The ways into a server. */
export interface ServerGate {
  /** Reads, flushes and status: never parked. */
  answer<T>(request: () => Promise<T>): Promise<T>;
  /** The same for what is answered before it returns. */
  answerNow(request: () => void): void;
  /** Everything that changes the device: parked while the barrier is up. */
  change(ranges: readonly ByteRange[], apply: () => Promise<void>): Promise<void>;
  /** The same for requests that native threads make. */
  readonly native: NativeGate;
}

/** A server's device as its clients see it. Closing it leaves the server as it is. */
export class ServedDevice implements BlockDevice {
  readonly name: string;
  readonly sizeBytes: number;
  readonly capabilities: Capabilities;
  /** Clients must go through the barrier, so there is no way behind it. */
  readonly nativeSource = undefined;
  readonly readNow: BlockDevice['readNow'];
  readonly writeBatch: BlockDevice['writeBatch'];
  readonly nativePath: NativeLane | undefined;
  readonly #device: BlockDevice;
  readonly #gate: ServerGate;
  readonly #lifetime = new Lifetime(this);

  constructor(id: string, device: BlockDevice, gate: ServerGate) {
    this.name = `server ${id}`;
    this.sizeBytes = device.sizeBytes;
    // The server adds no limits of its own, and all clients meet at one device.
    this.capabilities = { ...device.capabilities, multiConnection: true };
    this.#device = device;
    this.#gate = gate;
    this.readNow = device.readNow && ((batch, done) => this.#readNow(batch, done));
    this.writeBatch = device.writeBatch && ((batches) => this.#writeBatch(batches));
    const source = device.nativeSource;
    this.nativePath = source?.takesWrites ? gate.native.addLane(source) : undefined;
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    using _ = this.#lifetime.admit('read', offsetBytes, into.length);
    await this.#gate.answer(() => this.#device.read(offsetBytes, into));
  }

  async write(offsetBytes: number, bytes: Uint8Array, options?: WriteOptions): Promise<void> {
    using _ = this.#lifetime.admit('write', offsetBytes, bytes.length);
    const range = { offsetBytes, lengthBytes: bytes.length };
    await this.#gate.change([range], () => this.#device.write(offsetBytes, bytes, options));
  }

  async flush(): Promise<void> {
    using _ = this.#lifetime.admitFlush();
    await this.#gate.answer(() => this.#device.flush());
  }

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    using _ = this.#lifetime.admit('trim', offsetBytes, lengthBytes);
    await this.#gate.change([{ offsetBytes, lengthBytes }], () =>
      this.#device.trim(offsetBytes, lengthBytes),
    );
  }

  async writeZeroes(offsetBytes: number, lengthBytes: number, options?: WriteZeroesOptions): Promise<void> {
    using _ = this.#lifetime.admit('write zeroes', offsetBytes, lengthBytes);
    await this.#gate.change([{ offsetBytes, lengthBytes }], () =>
      this.#device.writeZeroes(offsetBytes, lengthBytes, options),
    );
  }

  async allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    using _ = this.#lifetime.admit('allocation', offsetBytes, lengthBytes);
    return await this.#gate.answer(() => this.#device.allocation(offsetBytes, lengthBytes));
  }

  close(): Promise<void> {
    return this.#lifetime.close(async () => {
      if (this.nativePath) await this.#gate.native.closeLane(this.nativePath);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #readNow(batch: Batch, done: Uint8Array): void {
    using _ = this.#lifetime.admitBatch('read', batch);
    this.#gate.answerNow(() => this.#device.readNow?.(batch, done));
  }

  async #writeBatch(batches: readonly Batch[]): Promise<void> {
    using _ = this.#lifetime.admitBatch('write', ...batches);
    await this.#gate.change(batches.flatMap(rangesOf), async () => this.#device.writeBatch?.(batches));
  }
}

function rangesOf({ places }: Batch): ByteRange[] {
  const ranges: ByteRange[] = [];
  for (let i = 0; i < places.length; i += 3) {
    ranges.push({ offsetBytes: places[i] ?? NaN, lengthBytes: places[i + 2] ?? NaN });
  }
  return ranges;
}
