import type { FileHandle } from 'node:fs/promises';
import type { Batch, Core } from '../core/core.js';
import { CofferdamError } from '../runtime/errors.js';
import { GiB, MiB } from '../runtime/sizes.js';
import {
  appendExtent,
  type BlockDevice,
  type Capabilities,
  type Extent,
  type NativeSource,
  type WriteOptions,
  type WriteZeroesOptions,
} from './block-device.js';
import { endOf, type ByteRange } from './byte-range.js';
import { DataSync } from './data-sync.js';
import { Lifetime } from './lifetime.js';
import { requestError } from './os-error.js';
import { WriteQueue } from './write-queue.js';

/** An open file or block special, and what is known about it. */
export interface Descriptor {
  name: string;
  handle: FileHandle;
  core: Core;
  sizeBytes: number;
  capabilities: Capabilities;
  /** Trimming and zeroing without writing work on multiples of this many bytes. */
  stepBytes: number;
  /** Given up when the device is closed. */
  claim: Disposable;
}

/** Node counts the bytes of one system call in 31 bits. */
const MAX_TRANSFER_BYTES = GiB;

const zeros = new Uint8Array(MiB);

/** Requests on a file descriptor: all that files and block specials have in common. */
export abstract class DescriptorDevice implements BlockDevice {
  readonly name: string;
  readonly sizeBytes: number;
  readonly capabilities: Capabilities;
  readonly nativeSource: NativeSource;
  readonly #descriptor: Descriptor;
  readonly #sync: DataSync;
  readonly #writes: WriteQueue;
  readonly #lifetime = new Lifetime(this);

  protected constructor(descriptor: Descriptor) {
    this.name = descriptor.name;
    this.sizeBytes = descriptor.sizeBytes;
    this.capabilities = descriptor.capabilities;
    const { handle, core } = descriptor;
    this.nativeSource = { fd: handle.fd, takesWrites: true, watch: core.newWatch?.() };
    this.#descriptor = descriptor;
    this.#writes = new WriteQueue((batches) => descriptor.core.write(descriptor.handle.fd, batches));
    this.#sync = new DataSync(() =>
      this.#request('fdatasync', undefined, () => descriptor.handle.datasync()),
    );
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    const { byteLength: lengthBytes } = into;
    using _request = this.#lifetime.admit('read', offsetBytes, lengthBytes);
    await this.#request('reading', { offsetBytes, lengthBytes }, async () => {
      for (let done = 0; done < lengthBytes;) {
        const length = Math.min(lengthBytes - done, MAX_TRANSFER_BYTES);
        const { bytesRead } = await this.#descriptor.handle.read(into, done, length, offsetBytes + done);
        if (bytesRead === 0) throw this.#shrunk(offsetBytes + done);
        done += bytesRead;
      }
    });
  }

  async write(offsetBytes: number, bytes: Uint8Array, options?: WriteOptions): Promise<void> {
    using _request = this.#lifetime.admit('write', offsetBytes, bytes.byteLength);
    await this.#writeAll(offsetBytes, bytes);
    if (options?.fua && bytes.byteLength > 0) await this.#sync.run();
  }

  readNow(batch: Batch, done: Uint8Array): void {
    using _request = this.#lifetime.admitBatch('read', batch);
    const { core, handle } = this.#descriptor;
    core.readCached(handle.fd, batch, done);
  }

  async writeBatch(batches: readonly Batch[]): Promise<void> {
    using _request = this.#lifetime.admitBatch('write', ...batches);
    await this.#request('writing', undefined, () => this.#writes.add(batches));
  }

  async flush(): Promise<void> {
    using _request = this.#lifetime.admitFlush();
    // A read-only opener has written nothing.
    if (!this.capabilities.readOnly) await this.#sync.run();
  }

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    using _request = this.#lifetime.admit('trim', offsetBytes, lengthBytes);
    const { core, handle } = this.#descriptor;
    const inner = this.#wholeSteps(offsetBytes, lengthBytes);
    if (inner.lengthBytes === 0) return;
    await this.#request('trimming', inner, () =>
      core.discard(handle.fd, inner.offsetBytes, inner.lengthBytes),
    );
  }

  async writeZeroes(offsetBytes: number, lengthBytes: number, options?: WriteZeroesOptions): Promise<void> {
    using _request = this.#lifetime.admit('write zeroes', offsetBytes, lengthBytes);
    const { core, handle } = this.#descriptor;
    const inner = this.#wholeSteps(offsetBytes, lengthBytes);
    const fast =
      inner.lengthBytes > 0 &&
      (await this.#request('zeroing', inner, () =>
        core.zeroRange(handle.fd, inner.offsetBytes, inner.lengthBytes, options?.mayTrim ?? true),
      ));
    if (fast) {
      await this.#writeZeros(offsetBytes, inner.offsetBytes - offsetBytes);
      await this.#writeZeros(endOf(inner), offsetBytes + lengthBytes - endOf(inner));
    } else {
      await this.#writeZeros(offsetBytes, lengthBytes);
    }
    if (options?.fua && lengthBytes > 0) await this.#sync.run();
  }

  async allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    using _request = this.#lifetime.admit('allocation', offsetBytes, lengthBytes);
    const range = { offsetBytes, lengthBytes };
    return await this.#request('finding the holes in', range, async () => {
      await this.#assertNotShrunk();
      const { core, handle } = this.#descriptor;
      return extentsOf(range, core.dataRanges(handle.fd, offsetBytes, lengthBytes));
    });
  }

  close(): Promise<void> {
    return this.#lifetime.close(async () => {
      using _claim = this.#descriptor.claim;
      await this.#request('closing', undefined, () => this.#descriptor.handle.close());
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #writeAll(offsetBytes: number, bytes: Uint8Array): Promise<void> {
    const { byteLength: lengthBytes } = bytes;
    await this.#request('writing', { offsetBytes, lengthBytes }, () =>
      this.#writes.add([{ bytes, places: Float64Array.of(offsetBytes, 0, lengthBytes) }]),
    );
  }

  async #writeZeros(offsetBytes: number, lengthBytes: number): Promise<void> {
    for (let done = 0; done < lengthBytes; done += zeros.byteLength) {
      await this.#writeAll(
        offsetBytes + done,
        zeros.subarray(0, Math.min(zeros.byteLength, lengthBytes - done)),
      );
    }
  }

  /** The part of a range that is whole steps of the device; its length may be 0, and it lies within the range. */
  #wholeSteps(offsetBytes: number, lengthBytes: number): ByteRange {
    const { stepBytes } = this.#descriptor;
    const start = Math.ceil(offsetBytes / stepBytes) * stepBytes;
    const end = Math.floor((offsetBytes + lengthBytes) / stepBytes) * stepBytes;
    return end > start ? { offsetBytes: start, lengthBytes: end - start } : { offsetBytes, lengthBytes: 0 };
  }

  /** Beyond its end a file has neither data nor holes; SEEK_DATA would call it a hole. */
  async #assertNotShrunk(): Promise<void> {
    const stats = await this.#descriptor.handle.stat();
    if (stats.isFile() && stats.size < this.sizeBytes) throw this.#shrunk(stats.size);
  }

  #shrunk(endBytes: number): CofferdamError {
    return new CofferdamError(
      'DEVICE_IO',
      `${this.name}: shrank while it was open: it ends at ${endBytes}, and was ${this.sizeBytes} bytes long`,
      { device: this.name, offsetBytes: endBytes, lengthBytes: this.sizeBytes - endBytes },
    );
  }

  async #request<T>(what: string, range: ByteRange | undefined, request: () => Promise<T>): Promise<T> {
    try {
      return await request();
    } catch (error) {
      throw requestError(this.name, what, error, range);
    }
  }
}

/** @param dataRanges start and end of each range of data, in order. */
function extentsOf(range: ByteRange, dataRanges: Float64Array): Extent[] {
  const extents: Extent[] = [];
  const end = endOf(range);
  let at = range.offsetBytes;
  for (let i = 0; i < dataRanges.length; i += 2) {
    const start = dataRanges[i] ?? end;
    const stop = dataRanges[i + 1] ?? end;
    appendExtent(extents, { offsetBytes: at, lengthBytes: start - at, kind: 'zero' });
    appendExtent(extents, { offsetBytes: start, lengthBytes: stop - start, kind: 'data' });
    at = stop;
  }
  appendExtent(extents, { offsetBytes: at, lengthBytes: end - at, kind: 'zero' });
  return extents;
}
