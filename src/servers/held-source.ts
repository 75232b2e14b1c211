import type { BlockDevice } from '../devices/block-device.js';
import { ReadOnlyDevice } from '../devices/read-only.js';
import { CofferdamError } from '../runtime/errors.js';
import type { Hold, WriteBarrier } from './barrier.js';
import type { CutSource, NativeCutSource } from './control.js';

/** The contents of a device for as long as the barrier of one hold is up. */
export class HeldSource implements CutSource {
  readonly device: BlockDevice;
  readonly native: NativeCutSource | undefined;
  readonly selected = undefined;
  readonly #hold: Hold;
  readonly #serverId: string;

  constructor(
    serverId: string,
    live: BlockDevice,
    barrier: WriteBarrier,
    hold: Hold,
    blockSizeBytes: number,
  ) {
    this.#serverId = serverId;
    this.#hold = hold;
    this.native = live.nativeSource && { fd: live.nativeSource.fd, marks: undefined, barrier: barrier.word };
    this.device = new ReadOnlyDevice(`${serverId} under its barrier`, live.sizeBytes, blockSizeBytes, {
      read: async (offsetBytes, into) => {
        await live.read(offsetBytes, into);
        // Looked at after the read: had the barrier come down before it, the bytes could be newer than the cut.
        await this.assertIntact();
      },
      allocation: (offsetBytes, lengthBytes) => live.allocation(offsetBytes, lengthBytes),
    });
  }

  /** Nothing has to be preserved while no write is admitted. */
  markCopied(): void {}

  assertIntact(): Promise<void> {
    if (this.#hold.up) return Promise.resolve();
    return Promise.reject(
      new CofferdamError(
        'CUT_VOID',
        `server ${this.#serverId}: the barrier came down while its blocks were copied: ${this.#hold.brokenBecause ?? 'it was released'}`,
        { device: this.#serverId },
      ),
    );
  }

  async close(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {}
}
