import type { BlockDevice } from '../../devices/block-device.js';
import type { Core } from '../../core/core.js';
import { KiB } from '../../runtime/sizes.js';
import { bufferPool } from './buffer-pool.js';
import { CommandFlag } from '../protocol.js';
import { dataHeader, holeChunk, type ReplyFormat } from './reply.js';
import { has, type Request } from './request.js';

/**
 * Reads in one batch, with their headers, take no more than this, unless it is one that is longer by itself: what is read
 * now and sent next shall still be in the processor's cache then.
 */
const BATCH_BYTES = 320 * KiB;

/** Zeros of whole pieces of this length are sent as holes. */
const HOLE_BYTES = 64 * KiB;

/** What a batch needs from its connection. */
export interface ReadContext {
  device: BlockDevice;
  core: Core;
  format: ReplyFormat;
  /** A read has succeeded. `release` is called when `parts` were sent. */
  reply(request: Request, parts: readonly Buffer[], release: () => void): void;
  fail(request: Request, error: unknown): void;
}

/**
 * The reads that came in one packet. Their replies lie one after the other in one buffer, each with its header already
 * before its data, so those that can be read at once need one call of the device and one write to the socket.
 */
export class ReadBatch {
  readonly #context: ReadContext;
  readonly #requests: Request[] = [];
  #bytes = 0;

  constructor(context: ReadContext) {
    this.#context = context;
  }

  add(request: Request): void {
    const bytes = this.#context.format.readHeaderBytes + request.lengthBytes;
    if (this.#requests.length > 0 && this.#bytes + bytes > BATCH_BYTES) this.run();
    this.#requests.push(request);
    this.#bytes += bytes;
  }

  /** Begins all reads that were added. */
  run(): void {
    if (this.#requests.length === 0) return;
    const requests = this.#requests.splice(0);
    const { format } = this.#context;
    const buffer = bufferPool.take(this.#bytes);
    this.#bytes = 0;
    const places = new Float64Array(3 * requests.length);
    const done = new Uint8Array(requests.length);
    let at = 0;
    for (const [index, request] of requests.entries()) {
      format.putReadHeader(buffer, at, request);
      at += format.readHeaderBytes;
      places.set([request.offsetBytes, at, request.lengthBytes], 3 * index);
      at += request.lengthBytes;
    }
    if (at <= BATCH_BYTES) this.#readNow(buffer, places, done);
    this.#answer(requests, places, done, buffer);
  }

  #readNow(bytes: Buffer, places: Float64Array, done: Uint8Array): void {
    try {
      this.#context.device.readNow?.({ bytes, places }, done);
    } catch {
      // Each is asked for alone, and then fails with a reason of its own.
    }
  }

  #answer(requests: readonly Request[], places: Float64Array, done: Uint8Array, buffer: Buffer): void {
    let users = requests.length;
    const release = (): void => {
      users--;
      if (users === 0) bufferPool.give(buffer);
    };
    for (const [index, request] of requests.entries()) {
      const from = places[3 * index + 1] ?? 0;
      const slot = buffer.subarray(from - this.#context.format.readHeaderBytes, from + request.lengthBytes);
      if (done[index] === 1) this.#reply(request, slot, release);
      else void this.#readLater(request, slot, release);
    }
  }

  async #readLater(request: Request, slot: Buffer, release: () => void): Promise<void> {
    const { device, format } = this.#context;
    try {
      await device.read(request.offsetBytes, slot.subarray(format.readHeaderBytes));
    } catch (error) {
      release();
      this.#context.fail(request, error);
      return;
    }
    this.#reply(request, slot, release);
  }

  #reply(request: Request, slot: Buffer, release: () => void): void {
    const { format } = this.#context;
    const mayFragment = format.canFragment && !has(request, CommandFlag.Df);
    const parts =
      mayFragment && request.lengthBytes >= HOLE_BYTES
        ? this.#withHoles(request, slot, slot.subarray(format.readHeaderBytes))
        : [slot];
    this.#context.reply(request, parts, release);
  }

  /** The reply in parts, if pieces of the data are zeros. */
  #withHoles(request: Request, slot: Buffer, data: Buffer): Buffer[] {
    const runs: { from: number; to: number; zero: boolean }[] = [];
    for (let from = 0; from < data.length; from += HOLE_BYTES) {
      const to = Math.min(data.length, from + HOLE_BYTES);
      const zero = this.#context.core.isZero(data.subarray(from, to));
      const last = runs.at(-1);
      if (last?.zero === zero) last.to = to;
      else runs.push({ from, to, zero });
    }
    if (runs.every((run) => !run.zero)) return [slot];
    return runs.flatMap(({ from, to, zero }) => {
      const offsetBytes = request.offsetBytes + from;
      const done = to === data.length;
      return zero
        ? [holeChunk(request, offsetBytes, to - from, done)]
        : [dataHeader(request, offsetBytes, to - from, done), data.subarray(from, to)];
    });
  }
}
