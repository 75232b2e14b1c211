import { SharedBitmap } from '../core/bitmap.js';
import type { NativePreImages, NativeWatch } from '../core/core.js';
import type { BlockDevice } from '../devices/block-device.js';
import { isCofferdamError } from '../runtime/errors.js';
import { KiB, MiB } from '../runtime/sizes.js';
import { UNIT_BYTES, type CopyBeforeWrite, type SnapshotMarks } from './copy-before-write.js';
import { limitReached, limitsOf, type PreImageLimits } from './pre-image-limits.js';

/**
 * The most that is saved in one turn of the event loop: more would keep others from theirs. All that a barrier has parked
 * is begun in one, and the barriers of other servers may be waiting to come down after it.
 */
const TURN_BYTES = 256 * KiB;

/** The most that a thread of libuv's pool saves at once: there are few of them, and others wait for one. */
const TASK_BYTES = 4 * MiB;

/**
 * Copy-before-write that native threads do for their own writes, and JavaScript here for all others
 * (`native/src/pre_images.rs`).
 *
 * Invariants:
 * 1. The words, and the device, stay until nothing native uses them any more: until `close` of the pre-images has resolved,
 *    and what was asked of them before has been done.
 */
export class NativeSaver implements CopyBeforeWrite {
  readonly #live: BlockDevice;
  readonly #limits: Required<PreImageLimits>;
  readonly #preImages: NativePreImages;
  readonly #words: Int32Array[];
  readonly #busy = new Set<Promise<void>>();
  /** How much was saved in this turn. */
  #turnBytes = 0;

  /**
   * From now on every native write is preserved.
   *
   * @param source what the device is on, and how its native threads learn of it.
   */
  constructor(
    live: BlockDevice,
    source: { fd: number; watch: NativeWatch },
    marks: SnapshotMarks,
    limits: PreImageLimits,
  ) {
    this.#live = live;
    this.#limits = limitsOf(limits);
    const saved = new SharedBitmap(Math.ceil(live.sizeBytes / UNIT_BYTES));
    const words = { preserved: marks.preserved.words, copied: marks.copied.words, saved: saved.words };
    this.#words = Object.values(words);
    this.#preImages = source.watch.begin({
      deviceFd: source.fd,
      deviceSizeBytes: live.sizeBytes,
      blockSizeBytes: marks.blockSizeBytes,
      ...words,
      ...this.#limits,
    });
  }

  async preserve(offsetBytes: number, lengthBytes: number): Promise<void> {
    if (this.#takesTurn(lengthBytes) && this.#preImages.preserveNow(offsetBytes, lengthBytes)) return;
    const endBytes = offsetBytes + lengthBytes;
    try {
      for (let from = offsetBytes; from < endBytes; from += TASK_BYTES) {
        await this.#wait(this.#preImages.preserve(from, Math.min(TASK_BYTES, endBytes - from)));
      }
    } catch (error) {
      throw isCofferdamError(error, 'TARGET_FULL') ? limitReached(this.#limits) : error;
    }
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    await this.#live.read(offsetBytes, into);
    await this.#wait(this.#preImages.restore(offsetBytes, into));
  }

  free(firstBlock: number, blockCount: number): void {
    this.#preImages.free(firstBlock, blockCount);
  }

  end(): void {
    this.#preImages.end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#preImages.close();
    await Promise.allSettled(this.#busy);
    this.#words.length = 0;
  }

  /** Whether so much more may be saved in this turn. */
  #takesTurn(lengthBytes: number): boolean {
    const turnBytes = this.#turnBytes + Math.max(UNIT_BYTES, lengthBytes);
    if (turnBytes > TURN_BYTES) return false;
    if (this.#turnBytes === 0) setImmediate(() => (this.#turnBytes = 0));
    this.#turnBytes = turnBytes;
    return true;
  }

  async #wait(work: Promise<void>): Promise<void> {
    this.#busy.add(work);
    try {
      await work;
    } finally {
      this.#busy.delete(work);
    }
  }
}
