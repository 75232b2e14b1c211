import { MultiBar, type Options, type Params, type SingleBar } from 'cli-progress';
import type { WriteStream } from 'node:tty';
import type { DeviceProgress, ProgressListener } from '../backup/progress.js';
import { formatBytes, formatDuration } from '../runtime/sizes.js';

/** Columns of a line that are not the bar itself. */
const TEXT_COLUMNS = 58;
const MOST_ID_COLUMNS = 16;

interface Payload {
  id: string;
  startMs: number;
  nowMs: number;
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
  }

  #begin(device: DeviceProgress): DeviceBar {
    this.#multi ??= new MultiBar({
      stream: this.#stream,
      format: line,
      barsize: Math.min(30, Math.max(8, this.#stream.columns - TEXT_COLUMNS - MOST_ID_COLUMNS)),
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
    const bar = new DeviceBar(this.#multi, device);
    this.#shown.push(bar);
    return bar;
  }
}

/** The bar of one device. Its clock runs while the device is worked on, not while it waits for its turn. */
class DeviceBar {
  readonly bar: SingleBar;
  readonly #payload: Payload;

  constructor(multi: MultiBar, { id, totalBytes }: DeviceProgress) {
    this.#payload = { id, startMs: Date.now(), nowMs: Date.now() };
    this.bar = multi.create(totalBytes, 0, this.#payload);
  }

  update({ doneBytes, totalBytes }: DeviceProgress): void {
    const isDone = this.bar.getTotal() === totalBytes && this.bar.getProgress() === 1;
    if (!isDone) this.#payload.nowMs = Date.now();
    if (doneBytes === 0) this.#payload.startMs = Date.now();
    this.bar.setTotal(totalBytes);
    this.bar.update(doneBytes, this.#payload);
  }
}

/** `  disk0  ███████░░░  70%   90 MiB of 128 MiB   1.2 GiB/s  2.0 s left` */
function line(options: Options, { total, value, progress }: Params, { id, startMs, nowMs }: Payload): string {
  const barColumns = options.barsize ?? 0;
  const complete = Math.floor(progress * barColumns);
  const bar =
    (options.barCompleteChar ?? '').repeat(complete) +
    (options.barIncompleteChar ?? '').repeat(barColumns - complete);
  const elapsedMs = Math.max(1, nowMs - startMs);
  const bytesPerMs = value / elapsedMs;
  let time = '';
  if (value >= total) time = `in ${formatDuration(elapsedMs)}`;
  else if (value > 0) time = `${formatDuration((total - value) / bytesPerMs)} left`;
  return [
    `  ${id.slice(0, MOST_ID_COLUMNS).padEnd(Math.min(MOST_ID_COLUMNS, 8))}`,
    bar,
    `${Math.floor(progress * 100)}%`.padStart(4),
    `${formatBytes(value)} of ${formatBytes(total)}`.padStart(21),
    value > 0 ? `${formatBytes(bytesPerMs * 1000)}/s`.padStart(11) : '',
    time,
  ].join(' ');
}
