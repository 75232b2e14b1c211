import { setImmediate as nextTurn } from 'node:timers/promises';
import { appendExtent, type BlockDevice, type Extent } from '#src/devices/block-device';
import { aligned } from '#src/devices/byte-range';
import { MemoryDevice } from '#src/devices/memory';
import type { Random } from '#src/runtime/random';
import { SECTOR_BYTES } from '#src/runtime/sizes';

/** What was sent to the file: bytes for a place, or a sync. */
export interface Operation {
  readonly offsetBytes: number;
  /** Undefined for a sync. */
  readonly bytes: Uint8Array | undefined;
  /** Of a sync: those that it makes durable. */
  readonly covers: readonly Operation[];
  /** Of a write that is over: the whole sectors that it left in memory. */
  left?: { offsetBytes: number; bytes: Uint8Array };
}

/**
 * A file in memory that notes every change and sync, and takes a random time over each, so that those that are not waited
 * for pass one another.
 */
export class RecordedFile implements BlockDevice {
  readonly name = 'recorded file';
  readonly capabilities = new MemoryDevice(0).capabilities;
  readonly nativeSource = undefined;
  readonly sizeBytes: number;
  readonly #content: Uint8Array;
  readonly #inFlight = new Set<Operation>();
  /** In the order in which they ended. */
  readonly #over: Operation[] = [];

  /**
   * @param content is all durable.
   * @param onEvent is called after each beginning and end of an operation, which are the places to crash at.
   */
  constructor(
    private readonly content: Uint8Array,
    private readonly random: Random,
    private readonly onEvent: () => void = () => {},
  ) {
    this.sizeBytes = content.length;
    this.#content = content.slice();
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    into.set(this.#content.subarray(offsetBytes, offsetBytes + into.length));
  }

  async write(offsetBytes: number, bytes: Uint8Array): Promise<void> {
    await this.record({ offsetBytes, bytes: bytes.slice(), covers: [] });
  }

  async flush(): Promise<void> {
    await this.record({ offsetBytes: 0, bytes: undefined, covers: [...this.#over] });
  }

  trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.write(offsetBytes, new Uint8Array(lengthBytes));
  }

  writeZeroes(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.write(offsetBytes, new Uint8Array(lengthBytes));
  }

  async allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    const extents: Extent[] = [];
    const end = offsetBytes + lengthBytes;
    for (let at = offsetBytes; at < end; at += SECTOR_BYTES) {
      const bytes = this.#content.subarray(at, Math.min(end, at + SECTOR_BYTES));
      const kind = bytes.some((byte) => byte !== 0) ? 'data' : 'zero';
      appendExtent(extents, { offsetBytes: at, lengthBytes: bytes.length, kind });
    }
    return extents;
  }

  async close(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {}

  /** What a power cut now leaves: all that is durable, and of the rest, sector by sector, a random part. */
  afterPowerCut(random: Random): Uint8Array {
    const durable = new Set(this.#over.flatMap(({ covers }) => covers));
    const medium = this.content.slice();
    for (const operation of this.#over) {
      if (operation.left)
        land(medium, operation.left, durable.has(operation) ? 1 : likelihood(random), random);
    }
    for (const operation of this.#inFlight) {
      if (operation.bytes) land(medium, wholeSectors(this.#content, operation), likelihood(random), random);
    }
    return medium;
  }

  protected async record(operation: Operation): Promise<void> {
    this.#inFlight.add(operation);
    this.onEvent();
    for (let turns = this.random.below(4); turns > 0; turns--) await nextTurn();
    if (operation.bytes) {
      this.#content.set(operation.bytes, operation.offsetBytes);
      operation.left = wholeSectors(this.#content, operation);
    }
    this.#inFlight.delete(operation);
    this.#over.push(operation);
    this.onEvent();
  }
}

/** Sometimes none of an operation, sometimes all, which is what media do most. */
function likelihood(random: Random): number {
  return random.pick([0, 0.5, 1]);
}

/** The sectors that a write leaves: media write no less. */
function wholeSectors(
  content: Uint8Array,
  { offsetBytes, bytes = new Uint8Array(0) }: Operation,
): { offsetBytes: number; bytes: Uint8Array } {
  const around = aligned({ offsetBytes, lengthBytes: bytes.length });
  const whole = content.slice(around.offsetBytes, around.offsetBytes + around.lengthBytes);
  whole.set(bytes, offsetBytes - around.offsetBytes);
  return { offsetBytes: around.offsetBytes, bytes: whole };
}

function land(
  medium: Uint8Array,
  { offsetBytes, bytes }: { offsetBytes: number; bytes: Uint8Array },
  chance: number,
  random: Random,
): void {
  for (let at = 0; at < bytes.length; at += SECTOR_BYTES) {
    if (random.chance(chance)) medium.set(bytes.subarray(at, at + SECTOR_BYTES), offsetBytes + at);
  }
}
