import type { z } from 'zod';
import type { Core, HashAlgorithm } from '../../core/core.js';
import { CofferdamError, isCofferdamError, type ErrorCode } from '../../runtime/errors.js';
import { DATA_START, MAX_JSON_BYTES, type JsonPointer } from './layout.js';
import type { ImageStore } from './store.js';

/**
 * Reads an image's metadata. Every position is checked before it is read and every byte against its hash after, so
 * whatever stands in the image costs no more than a bounded read and a coded error with the position.
 */
export class ImageReader {
  /** @param endBytes nothing that is read lies at or past this offset. */
  constructor(
    readonly store: Pick<ImageStore, 'name' | 'read'>,
    readonly core: Core,
    readonly endBytes: number,
  ) {}

  /** Whether the range lies in the image's extents. */
  holds(offset: number, length: number): boolean {
    return offset >= DATA_START && offset <= this.endBytes - length;
  }

  /**
   * Reads a range whose length the caller has bounded.
   *
   * @throws CofferdamError IMAGE_CORRUPT, IMAGE_TRUNCATED, DEVICE_IO
   */
  async read(
    offset: number,
    length: number,
    algorithm: HashAlgorithm,
    hash: Uint8Array,
    what: string,
  ): Promise<Uint8Array> {
    if (!this.holds(offset, length)) {
      const message = `${what} is said to be outside the image, which ends at ${this.endBytes}`;
      throw this.error('IMAGE_CORRUPT', message, { offset, length });
    }
    const bytes = new Uint8Array(length);
    await this.store.read(offset, bytes);
    if (Buffer.compare(this.core.hash(algorithm, bytes), hash) !== 0) {
      throw this.error('IMAGE_CORRUPT', `${what} does not match its checksum`, { offset, length });
    }
    return bytes;
  }

  /** @throws CofferdamError IMAGE_CORRUPT, IMAGE_TRUNCATED, DEVICE_IO */
  async readJson<T>(pointer: JsonPointer, schema: z.ZodType<T>, what: string): Promise<T> {
    if (pointer.length > MAX_JSON_BYTES) {
      throw this.error('IMAGE_CORRUPT', `${what} is longer than ${MAX_JSON_BYTES} bytes`, pointer);
    }
    const { offset, length, blake3 } = pointer;
    const bytes = await this.read(offset, length, 'blake3', Buffer.from(blake3, 'hex'), what);
    const parsed = schema.safeParse(parseJson(bytes));
    if (parsed.success) return parsed.data;
    const issue = parsed.error.issues[0];
    const place = issue?.path.join('.') ?? '';
    throw this.error('IMAGE_CORRUPT', `${what} makes no sense: ${place}: ${issue?.message ?? ''}`, pointer);
  }

  /** An error about a place in the image. */
  error(code: ErrorCode, message: string, place: { offset: number; length: number }): CofferdamError {
    const { offset, length } = place;
    return new CofferdamError(code, `${this.store.name}: ${message} (${length} bytes at ${offset})`, {
      device: this.store.name,
      offsetBytes: offset,
      lengthBytes: length,
    });
  }
}

/** Whether an error says that a place in the image cannot be read, so that work may go on elsewhere. */
export function isDamage(error: unknown): error is CofferdamError {
  return (
    isCofferdamError(error, 'IMAGE_CORRUPT') ||
    isCofferdamError(error, 'IMAGE_VERSION') ||
    isCofferdamError(error, 'IMAGE_TRUNCATED') ||
    isCofferdamError(error, 'DEVICE_IO')
  );
}

/** `undefined` for what is not UTF-8 JSON; every schema refuses that. */
function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch {
    return undefined;
  }
}
