import type { Batch } from '../../core/core.js';
import type { BlockDevice } from '../../devices/block-device.js';
import { isCofferdamError } from '../../runtime/errors.js';
import type { Request } from './request.js';

/** What a batch needs from its connection. */
export interface WriteContext {
  device: BlockDevice;
  succeed(request: Request): void;
  fail(request: Request, error: unknown): void;
}

/** So much more may be kept alive than is wanted, in bytes: it is not worth a copy. */
const SMALL_BYTES = 512;

/**
 * The writes that came whole in one packet, and so lie in one buffer. A device that can takes them in one call; what
 * fails there is asked for again one by one, which tells which write it was and why.
 */
export class WriteBatch {
  readonly #context: WriteContext;
  #bytes: Buffer | undefined;
  #requests: Request[] = [];
  #places: number[] = [];

  constructor(context: WriteContext) {
    this.#context = context;
  }

  /** @param at where in `bytes` the payload begins. */
  add(request: Request, bytes: Buffer, at: number): void {
    if (this.#bytes !== bytes) this.run();
    this.#bytes = bytes;
    this.#requests.push(request);
    this.#places.push(request.offsetBytes, at, request.lengthBytes);
  }

  /** A write whose payload lies in several packets. It is begun at once. */
  addInPieces(request: Request, pieces: readonly Buffer[]): void {
    void this.#writeInPieces(request, pieces.map(withoutTheRest));
  }

  /** Begins all writes that were added. */
  run(): void {
    const bytes = this.#bytes;
    if (!bytes) return;
    const requests = this.#requests;
    const places = Float64Array.from(this.#places);
    this.#bytes = undefined;
    this.#requests = [];
    this.#places = [];
    void this.#write(requests, compact(bytes, places), places);
  }

  async #write(requests: readonly Request[], bytes: Buffer, places: Float64Array): Promise<void> {
    const { device } = this.#context;
    if (device.writeBatch && requests.length > 1) {
      try {
        await device.writeBatch([{ bytes, places }]);
        for (const request of requests) this.#context.succeed(request);
        return;
      } catch (error) {
        if (isFinal(error)) return requests.forEach((request) => this.#context.fail(request, error));
        // None was answered yet, so each may be written once more.
      }
    }
    for (const [index, request] of requests.entries()) {
      void this.#writeOne(request, bytes, places[3 * index + 1] ?? 0);
    }
  }

  async #writeInPieces(request: Request, pieces: readonly Buffer[]): Promise<void> {
    const { device } = this.#context;
    if (device.writeBatch) {
      try {
        await device.writeBatch(batchesOf(request, pieces));
        this.#context.succeed(request);
        return;
      } catch (error) {
        if (isFinal(error)) return this.#context.fail(request, error);
        // As one it tells why it fails, if it does so again.
      }
    }
    await this.#writeOne(request, Buffer.concat(pieces), 0);
  }

  async #writeOne(request: Request, bytes: Buffer, at: number): Promise<void> {
    try {
      await this.#context.device.write(request.offsetBytes, bytes.subarray(at, at + request.lengthBytes));
    } catch (error) {
      this.#context.fail(request, error);
      return;
    }
    this.#context.succeed(request);
  }
}

/** What was sent before a power cut must not reach the device after it: the client may have written something newer. */
function isFinal(error: unknown): boolean {
  return isCofferdamError(error, 'POWER_CUT');
}

/** One batch for each piece. */
function batchesOf({ offsetBytes }: Request, pieces: readonly Buffer[]): Batch[] {
  let at = offsetBytes;
  return pieces.map((bytes) => {
    at += bytes.length;
    return { bytes, places: Float64Array.of(at - bytes.length, 0, bytes.length) };
  });
}

/**
 * The same payload in memory of its own, if it would keep much more alive for as long as the write is parked: a request is
 * charged for its length.
 */
export function withoutTheRest(payload: Buffer): Buffer {
  return keepsTooMuch(payload, payload.length) ? Buffer.from(payload) : payload;
}

/** The same for the payloads of a batch; `places` says where they are afterwards. */
function compact(bytes: Buffer, places: Float64Array): Buffer {
  let lengthBytes = 0;
  for (let i = 2; i < places.length; i += 3) lengthBytes += places[i] ?? 0;
  if (!keepsTooMuch(bytes, lengthBytes)) return bytes;
  const own = Buffer.allocUnsafeSlow(lengthBytes);
  let to = 0;
  for (let i = 0; i < places.length; i += 3) {
    const from = places[i + 1] ?? 0;
    places[i + 1] = to;
    to += bytes.copy(own, to, from, from + (places[i + 2] ?? 0));
  }
  return own;
}

function keepsTooMuch(bytes: Buffer, wantedBytes: number): boolean {
  return bytes.buffer.byteLength > 2 * wantedBytes + SMALL_BYTES;
}
