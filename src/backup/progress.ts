/** How far one device is. */
export interface DeviceProgress {
  id: string;
  /** Bytes of the device dealt with, of `totalBytes`. */
  doneBytes: number;
  /** Bytes that had to be read for it; holes are not read. */
  readBytes: number;
  totalBytes: number;
}

export type ProgressListener = (devices: readonly DeviceProgress[]) => void;

/** How often a listener is called, in ms. */
const INTERVAL_MS = 100;

/**
 * Counters that jobs on worker threads add to, and a timer that shows them to a listener. The listener is called once
 * more at the end, so it always sees the last state.
 */
export class Progress implements Disposable {
  readonly #counters = new Map<string, { words: BigInt64Array<SharedArrayBuffer>; totalBytes: number }>();
  readonly #listener: ProgressListener | undefined;
  readonly #timer: NodeJS.Timeout | undefined;

  constructor(listener: ProgressListener | undefined) {
    this.#listener = listener;
    if (listener) this.#timer = setInterval(() => listener(this.devices()), INTERVAL_MS).unref();
  }

  /** The two words of a device, as {@link CopyJob.progress} wants them. Asked for again, a device gets more to do. */
  counters(id: string, totalBytes: number): BigInt64Array<SharedArrayBuffer> {
    const known = this.#counters.get(id);
    if (known) {
      known.totalBytes += totalBytes;
      return known.words;
    }
    const words = new BigInt64Array(new SharedArrayBuffer(16));
    this.#counters.set(id, { words, totalBytes });
    return words;
  }

  devices(): DeviceProgress[] {
    return [...this.#counters.keys()].map((id) => this.device(id));
  }

  /** All zeros for a device that nothing was to be done with yet. */
  device(id: string): DeviceProgress {
    const counters = this.#counters.get(id);
    if (!counters) return { id, doneBytes: 0, readBytes: 0, totalBytes: 0 };
    const { words, totalBytes } = counters;
    return {
      id,
      doneBytes: Number(Atomics.load(words, 0)),
      readBytes: Number(Atomics.load(words, 1)),
      totalBytes,
    };
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#listener?.(this.devices());
  }
}
