import { MultiBar, type Options, type Params, type SingleBar } from 'cli-progress';
import type { WriteStream } from 'node:tty';
import type { DeviceProgress, ProgressListener } from '../backup/progress.js';
import { formatBytes, formatDuration } from '../runtime/sizes.js';

/** Columns of a line that are neither the bar nor the device's ID. */
const TEXT_COLUMNS = 56;
const LONGEST_ID = 16;

/** What a line shows besides what the bar itself knows. */
interface Payload {
  id: string;
  readBytes: number;
  elapsedMs: number;
}

/**
 * One bar per device on a terminal; nothing at all on anything else. Where there are more devices than lines, the bars
 * that began first make room.
 */
export class ProgressBars implements Disposable {
  /** To be spread into the options of what makes the progress; empty where nobody would see it. */
  readonly options: { onProgress?: ProgressListener } = {};
  readonly #stream: WriteStream;
  readonly #bars = new Map<string, DeviceBar>();
  /** Those on the screen, in order. */
  readonly #shown: DeviceBar[] = [];
  #multi: MultiBar | undefined;
  #idColumns = 0;
  #lastShownMs = Date.now();

  constructor(stream: WriteStream) {
    this.#stream = stream;
    if (stream.isTTY) this.options = { onProgress: (devices) => this.#show(devices) };
  }

  [Symbol.dispose](): void {
    if (this.#multi?.isActive) this.#multi.stop();
    this.#multi = undefined;
  }

  #show(devices: readonly DeviceProgress[]): void {
    for (const device of devices) {
      let bar = this.#bars.get(device.id);
      if (!bar) this.#bars.set(device.id, (bar = this.#begin(device)));
      bar.update(device);
    }
    this.#lastShownMs = Date.now();
  }

  #begin(device: DeviceProgress): DeviceBar {
    this.#idColumns = Math.max(this.#idColumns, Math.min(LONGEST_ID, device.id.length));
    this.#multi ??= new MultiBar({
      stream: this.#stream,
      format: (options, params, payload: Payload) => line(options, params, payload, this.#idColumns),
      barsize: Math.min(30, Math.max(8, this.#stream.columns - TEXT_COLUMNS - LONGEST_ID)),
      barCompleteChar: '█',
      barIncompleteChar: '░',
      gracefulExit: true,
      // A bar that makes room moves the others, which have not changed.
      forceRedraw: true,
    });
    if (this.#shown.length >= this.#stream.rows - 1) {
      const oldest = this.#shown.shift();
      if (oldest) this.#multi.remove(oldest.bar);
    }
    const bar = new DeviceBar(this.#multi, device, this.#lastShownMs);
    this.#shown.push(bar);
    return bar;
  }
}

/** The bar of one device. Its clock runs while the device is worked on, not while it waits for its turn. */
class DeviceBar {
  readonly bar: SingleBar;
  readonly #payload: Payload;
  /** When it was last seen to wait. */
  #startMs: number;
  #isDone = false;

  constructor(multi: MultiBar, { id, totalBytes }: DeviceProgress, startMs: number) {
    this.#startMs = startMs;
    this.#payload = { id, readBytes: 0, elapsedMs: 0 };
    this.bar = multi.create(totalBytes, 0, this.#payload);
  }

  update({ doneBytes, readBytes, totalBytes }: DeviceProgress): void {
    const nowMs = Date.now();
    if (doneBytes === 0) this.#startMs = nowMs;
    if (!this.#isDone) this.#payload.elapsedMs = nowMs - this.#startMs;
    this.#payload.readBytes = readBytes;
    this.#isDone = doneBytes >= totalBytes;
    this.bar.setTotal(totalBytes);
    this.bar.update(doneBytes, this.#payload);
  }
}

/** `  disk0 ███████░░░  70%   90 MiB of 128 MiB   120 MiB/s 2.0 s left`; the rate is that of reading. */
function line(options: Options, params: Params, payload: Payload, idColumns: number): string {
  const { total, value, progress } = params;
  const { id, readBytes, elapsedMs } = payload;
  const barColumns = options.barsize ?? 0;
  const complete = Math.floor(progress * barColumns);
  const bar =
    (options.barCompleteChar ?? '').repeat(complete) +
    (options.barIncompleteChar ?? '').repeat(barColumns - complete);
  let time = '';
  if (value >= total) time = `in ${formatDuration(elapsedMs)}`;
  else if (value > 0) time = `${formatDuration((total / value - 1) * elapsedMs)} left`;
  const rate = value > 0 && elapsedMs > 0 ? `${formatBytes((readBytes / elapsedMs) * 1000)}/s` : '';
  return [
    `  ${id.slice(0, LONGEST_ID).padEnd(idColumns)}`,
    bar,
    `${Math.floor(progress * 100)}%`.padStart(4),
    `${formatBytes(value)} of ${formatBytes(total)}`.padStart(20),
    rate.padStart(11),
    time,
  ].join(' ');
}
