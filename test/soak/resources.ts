import { readdir, readFile } from 'node:fs/promises';
import { KiB, MiB } from '#src/runtime/sizes';
import type { Held, Life } from './counts.js';

/** What a process may hold more than when it was warm. Far beyond what buffers and the garbage of a run come to. */
const GROWTH_BYTES = 512 * MiB;
const GROWTH_DESCRIPTORS = 64;

/** So many samples are taken before a process counts as warm: threads are started and buffers grown by then. */
const WARM_SAMPLES = 5;

/** Memory and file descriptors of one process, as the kernel counts them, over its life. */
export class Resources {
  #samples = 0;
  readonly #resident: Held = { first: 0, last: 0, max: 0 };
  readonly #descriptors: Held = { first: 0, last: 0, max: 0 };

  constructor(
    private readonly name: string,
    private readonly pid: number,
  ) {}

  /** Looks at the process, which must be alive. @throws Error if it has grown without bound. */
  async sample(): Promise<void> {
    const status = await readFile(`/proc/${this.pid}/status`, 'utf8');
    const residentBytes = Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * KiB;
    const descriptors = (await readdir(`/proc/${this.pid}/fd`)).length;
    const isWarm = this.#samples >= WARM_SAMPLES;
    this.#samples++;
    note(this.#resident, residentBytes, isWarm);
    note(this.#descriptors, descriptors, isWarm);
    if (!isWarm) return;
    if (
      residentBytes > this.#resident.first + GROWTH_BYTES ||
      descriptors > this.#descriptors.first + GROWTH_DESCRIPTORS
    )
      throw new Error(`${this.name} grows without bound: ${JSON.stringify(this.life)}`);
  }

  get life(): Life {
    return {
      process: this.name,
      samples: this.#samples,
      residentBytes: this.#resident,
      descriptors: this.#descriptors,
    };
  }
}

/** The first value is that of the warm process, or the last one of a process that did not live that long. */
function note(held: Held, value: number, wasWarm: boolean): void {
  if (!wasWarm) held.first = value;
  held.last = value;
  held.max = Math.max(held.max, value);
}

/** The numbers of the living processes that have this in their environment from their start. */
export async function processesWith(variable: string, value: string): Promise<number[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const found: number[] = [];
  for (const pid of pids) {
    // Others' processes cannot be looked into, and some are gone by now.
    const environment = await readFile(`/proc/${pid}/environ`, 'utf8').catch(() => '');
    if (environment.split('\0').includes(`${variable}=${value}`)) found.push(Number(pid));
  }
  return found;
}
