import type { DeviceCopier } from '../../backup/strategies.js';
import { sleep, type Clock } from '../../runtime/clock.js';
import type { CutSource, ServerControl } from '../../servers/control.js';

export interface CopyAssumptions {
  deviceSizeBytes: number;
  copyBytesPerSecond: number;
  /** Unit of copying, in bytes. */
  blockSizeBytes: number;
  /** Writes per second to each server, each to any block of its device. */
  writesPerSecond: number;
}

/** Copies nothing, but takes the time that a copy would take. */
export class TimedCopier implements DeviceCopier {
  readonly #copy: CopyAssumptions;
  readonly #clock: Clock;
  readonly #firstCopyAtMs = new Map<string, number>();

  constructor(copy: CopyAssumptions, clock: Clock) {
    this.#copy = copy;
    this.#clock = clock;
  }

  async copy({ id }: ServerControl, source: CutSource, signal: AbortSignal): Promise<null> {
    const bytes = source.selected ? this.#changedBytes(id) : this.#copy.deviceSizeBytes;
    this.#firstCopyAtMs.set(id, this.#clock.nowMs());
    await sleep(this.#clock, (bytes / this.#copy.copyBytesPerSecond) * 1000, signal);
    await source.assertIntact();
    return null;
  }

  /** The blocks that writes to random places have changed since the device was first copied. */
  #changedBytes(id: string): number {
    const { deviceSizeBytes, blockSizeBytes, writesPerSecond } = this.#copy;
    const seconds = (this.#clock.nowMs() - (this.#firstCopyAtMs.get(id) ?? 0)) / 1000;
    const blocks = Math.ceil(deviceSizeBytes / blockSizeBytes);
    return deviceSizeBytes * -Math.expm1((-writesPerSecond * seconds) / blocks);
  }
}
