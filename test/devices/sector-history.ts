import { SECTOR_BYTES } from '#src/runtime/sizes';
import { differenceAt, randomBytes } from '../support/bytes.js';
import type { ModelRequest } from './model.js';

/** One content that a sector had; undefined after a trim: it may be anything. */
type Version = Uint8Array | undefined;

/**
 * What each sector of a device may hold after a power cut: the version that was last made durable, or any later one. The
 * plain model against which volatile caches are compared.
 */
export class SectorHistory {
  readonly #sizeBytes: number;
  readonly #versions: Version[][];
  /** Per sector, the oldest version that a power cut may leave. */
  readonly #durable: number[];

  /** @param content of the device now, all durable. */
  constructor(content: Uint8Array) {
    this.#sizeBytes = content.length;
    this.#versions = Array.from({ length: Math.ceil(content.length / SECTOR_BYTES) }, (_, sector) => [
      content.slice(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES),
    ]);
    this.#durable = this.#versions.map(() => 0);
  }

  /** The history as it is now, whatever happens later. */
  copy(): SectorHistory {
    const copy = new SectorHistory(new Uint8Array(this.#sizeBytes));
    copy.#versions.splice(0, Infinity, ...this.#versions.map((versions) => versions.slice()));
    copy.#durable.splice(0, Infinity, ...this.#durable);
    return copy;
  }

  /** A change was sent. Its sectors may have it from now on. */
  sent(request: ModelRequest): void {
    for (const sector of this.sectorsOf(request)) this.#versions[sector]?.push(this.#after(sector, request));
  }

  /** The newest version of each sector now, for {@link durable}. */
  mark(): number[] {
    return this.#versions.map((versions) => versions.length - 1);
  }

  /** These versions of these sectors, or later ones, must survive from now on. */
  durable(mark: readonly number[], sectors: Iterable<number>): void {
    for (const sector of sectors) {
      this.#durable[sector] = Math.max(this.#durable[sector] ?? 0, mark[sector] ?? 0);
    }
  }

  allSectors(): Iterable<number> {
    return this.#versions.keys();
  }

  sectorsOf({ kind, offsetBytes, lengthBytes }: ModelRequest): number[] {
    const changes = kind === 'write' || kind === 'zeroes' || kind === 'trim';
    if (!changes || lengthBytes === 0) return [];
    const first = Math.floor(offsetBytes / SECTOR_BYTES);
    const last = Math.floor((offsetBytes + lengthBytes - 1) / SECTOR_BYTES);
    return Array.from({ length: last - first + 1 }, (_, index) => first + index);
  }

  /** The sectors of `content` that hold no version which a power cut may leave. */
  wrongSectors(content: Uint8Array): number[] {
    return [...this.allSectors()].filter((sector) => {
      const held = content.subarray(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES);
      const allowed = this.#versions[sector]?.slice(this.#durable[sector]) ?? [];
      return !allowed.some((version) => version === undefined || differenceAt(held, version) === undefined);
    });
  }

  #after(sector: number, request: ModelRequest): Version {
    const { kind, offsetBytes, lengthBytes } = request;
    const start = Math.max(offsetBytes, sector * SECTOR_BYTES);
    const end = Math.min(offsetBytes + lengthBytes, (sector + 1) * SECTOR_BYTES);
    const before = this.#versions[sector]?.at(-1);
    const whole = end - start === Math.min(SECTOR_BYTES, this.#sizeBytes - sector * SECTOR_BYTES);
    if (kind === 'trim' || (before === undefined && !whole)) return undefined;
    const after = before?.slice() ?? new Uint8Array(end - start);
    const bytes =
      request.kind === 'write' ? randomBytes(lengthBytes, request.seed) : new Uint8Array(lengthBytes);
    after.set(bytes.subarray(start - offsetBytes, end - offsetBytes), start - sector * SECTOR_BYTES);
    return after;
  }
}
