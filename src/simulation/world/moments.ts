import type { HistoryEvent } from '../../witness/history.js';
import type { Evidence, Inconsistent } from '../../witness/verdict.js';
import type { Surroundings } from './surroundings.js';
import { formatMs } from './trace.js';

/** When clients did what their history has, so that what the judge says can be found in the trace. */
export class Moments {
  readonly #world: Surroundings;
  /** In simulated ms; the event n is at index n - 1. */
  readonly #timesMs: number[] = [];
  /** Writes that are in the trace. */
  readonly #marked = new Set<number>();

  constructor(world: Surroundings) {
    this.#world = world;
  }

  /** An event happens now. */
  note({ event }: HistoryEvent): void {
    this.#timesMs[event - 1] = this.#world.time.nowMs();
  }

  /** Marks the writes that prove a verdict in the trace. Answers with lines that tell when they and the copy were made. */
  show({ witness, window }: Inconsistent): string[] {
    const writes = [witness.excluded, witness.included].filter((write) => write !== undefined);
    for (const write of writes) this.#mark(write);
    return [
      `  copy requested at ${this.#at(window.from)}, complete at ${this.#at(window.to)}`,
      ...writes.map(
        (write) =>
          `  ${describeWrite(write)}: sent at ${this.#at(write.invoke)}, ` +
          (write.ack === Infinity ? 'never acknowledged' : `acknowledged at ${this.#at(write.ack)}`),
      ),
    ];
  }

  #mark(write: Evidence): void {
    if (this.#marked.has(write.sequence)) return;
    this.#marked.add(write.sequence);
    const tell = (event: number, what: string): void =>
      this.#world.trace.mark(
        'clients',
        `${describeWrite(write)} ${what} (event ${event})`,
        this.#timeMs(event),
      );
    tell(write.invoke, 'is sent');
    if (write.ack !== Infinity) tell(write.ack, 'is acknowledged');
  }

  #at(event: number): string {
    return `${formatMs(this.#timeMs(event))} ms`;
  }

  #timeMs(event: number): number {
    return this.#timesMs[event - 1] ?? NaN;
  }
}

function describeWrite({ sequence, writer, device }: Evidence): string {
  return `write ${sequence} of writer ${writer} to server ${device}`;
}
