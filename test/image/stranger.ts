/**
 * A reader of backup images by somebody who knows docs/FORMAT.md and nothing else. It imports nothing of the project. It
 * also notes which ranges of the image can be reached, which tells the bytes that matter from those that do not.
 */
import { blake3 } from 'hash-wasm';
import xxhash from 'xxhash-wasm';

export interface Extent {
  what: 'superblock' | 'catalog' | 'record' | 'node' | 'block';
  offset: number;
  length: number;
}

interface RootPointer {
  offset: number;
  length: number;
  level: number;
  hash: string;
}

interface DeviceMember {
  id: string;
  sizeBytes: number;
  blockSizeBytes: number;
  root: RootPointer | null;
}

interface RecordMember {
  generation: number;
  hashAlgorithm: string;
  devices: DeviceMember[];
}

interface CatalogMember {
  generation: number;
  fingerprint: string;
  record: { offset: number; length: number };
}

interface SuperblockFields {
  uuid: string;
  sequence: bigint;
  end: number;
  catalog: { offset: number; length: number; blake3: string } | undefined;
}

const { h64Raw } = await xxhash();

export class Stranger {
  /** Every range that a slot leads to, in the order of reading; shared ones are there more than once. */
  readonly reached: Extent[] = [];
  readonly #image: Uint8Array;
  readonly #view: DataView;
  #superblock: SuperblockFields | undefined;

  private constructor(image: Uint8Array) {
    this.#image = image;
    this.#view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  }

  /** Reads superblocks only. */
  static async open(image: Uint8Array): Promise<Stranger> {
    const stranger = new Stranger(image);
    const slots = [await stranger.#slot(0), await stranger.#slot(1)];
    const valid = slots.filter((slot) => slot !== undefined);
    valid.sort((a, b) => (a.sequence < b.sequence ? 1 : -1));
    const newest = valid[0];
    if (!newest) throw new Error('no valid superblock');
    if (newest.end > image.length) throw new Error('the image was cut off');
    stranger.#superblock = newest;
    // The older slot's catalog can be reached as well, when the newer one's is damaged.
    for (const older of valid.slice(1)) await stranger.#catalogOf(older);
    return stranger;
  }

  get uuid(): string {
    return this.#newest().uuid;
  }

  async catalog(): Promise<CatalogMember[]> {
    return this.#catalogOf(this.#newest());
  }

  async record(generation: number): Promise<RecordMember> {
    const entry = (await this.catalog()).find((candidate) => candidate.generation === generation);
    if (!entry) throw new Error(`no generation ${generation}`);
    const { offset, length } = entry.record;
    const record: RecordMember = await this.#json('record', offset, length, entry.fingerprint);
    if (record.generation !== generation) throw new Error('the record is of another generation');
    return record;
  }

  /** All bytes of a device as of a generation. */
  async device(generation: number, id: string): Promise<Uint8Array> {
    const record = await this.record(generation);
    const device = record.devices.find((candidate) => candidate.id === id);
    if (!device) throw new Error(`no device ${id}`);
    const { sizeBytes, blockSizeBytes, root } = device;
    const content = new Uint8Array(sizeBytes);
    if (root === null) return content;
    const blocks = Math.ceil(sizeBytes / blockSizeBytes);
    let level = 0;
    while (256 ** (level + 1) < blocks) level++;
    if (root.level !== level) throw new Error('the root has a wrong level');
    await this.#under(record.hashAlgorithm, device, content, { ...root, index: 0 });
    return content;
  }

  /** Reads everything: afterwards `reached` is complete. */
  async readAll(): Promise<Map<string, Uint8Array>> {
    const contents = new Map<string, Uint8Array>();
    for (const { generation } of await this.catalog()) {
      for (const { id } of (await this.record(generation)).devices) {
        contents.set(`${generation}/${id}`, await this.device(generation, id));
      }
    }
    return contents;
  }

  #newest(): SuperblockFields {
    if (!this.#superblock) throw new Error('not open');
    return this.#superblock;
  }

  async #slot(index: number): Promise<SuperblockFields | undefined> {
    const offset = index * 65536;
    if (this.#image.length < offset + 4096) return undefined;
    const slot = this.#image.subarray(offset, offset + 4096);
    this.reached.push({ what: 'superblock', offset, length: 4096 });
    if (Buffer.from(slot.subarray(0, 16)).toString('latin1') !== 'cofferdam image\n') return undefined;
    if ((await blake3(slot.subarray(0, 480))) !== hex(slot.subarray(480, 512))) return undefined;
    const sequence = this.#view.getBigUint64(offset + 40, true);
    if (sequence === 0n || (sequence % 2n === 1n ? 0 : 1) !== index) return undefined;
    if (slot.subarray(512).some((byte) => byte !== 0)) return undefined;
    if (this.#view.getUint32(offset + 20, true) > 1) throw new Error('too new');
    const length = this.#view.getUint32(offset + 64, true);
    const catalog = {
      offset: this.#u64(offset + 56),
      length,
      blake3: hex(slot.subarray(72, 104)),
    };
    return {
      uuid: hex(slot.subarray(24, 40)),
      sequence,
      end: this.#u64(offset + 48),
      catalog: length === 0 ? undefined : catalog,
    };
  }

  async #catalogOf(superblock: SuperblockFields): Promise<CatalogMember[]> {
    if (!superblock.catalog) return [];
    const { offset, length, blake3: hash } = superblock.catalog;
    const catalog: { generations: CatalogMember[] } = await this.#json('catalog', offset, length, hash);
    return catalog.generations;
  }

  async #under(
    algorithm: string,
    device: DeviceMember,
    content: Uint8Array,
    at: { offset: number; length: number; hash: string; level: number; index: number },
  ): Promise<void> {
    const node = await this.#extent('node', at.offset, at.length, algorithm, at.hash);
    const view = new DataView(node.buffer, node.byteOffset, node.byteLength);
    const hashBytes = algorithm === 'xxh64' ? 8 : 32;
    if (Buffer.from(node.subarray(0, 8)).toString('latin1') !== 'cfdmnode') throw new Error('not a node');
    if (view.getUint8(8) !== at.level) throw new Error('wrong level');
    if (view.getUint8(9) !== (algorithm === 'xxh64' ? 1 : 2)) throw new Error('wrong algorithm');
    const blocks = Math.ceil(device.sizeBytes / device.blockSizeBytes);
    const inLevel = Math.ceil(blocks / 256 ** at.level);
    if (view.getUint16(10, true) !== Math.min(256, inLevel - at.index * 256))
      throw new Error('wrong number of entries');
    for (let entry = 0; entry < 256; entry++) {
      const start = 16 + entry * (16 + hashBytes);
      const kind = view.getUint8(start + 12);
      if (kind === 0) continue;
      const offset = Number(view.getBigUint64(start, true));
      const length = view.getUint32(start + 8, true);
      const hash = hex(node.subarray(start + 16, start + 16 + hashBytes));
      const index = at.index * 256 + entry;
      if (kind === 1 && at.level > 0) {
        await this.#under(algorithm, device, content, { offset, length, hash, level: at.level - 1, index });
      } else if (kind === 2 && at.level === 0) {
        content.set(
          await this.#extent('block', offset, length, algorithm, hash),
          index * device.blockSizeBytes,
        );
      } else {
        throw new Error(`kind ${kind} in a node of level ${at.level}`);
      }
    }
  }

  async #json<T>(what: Extent['what'], offset: number, length: number, hash: string): Promise<T> {
    const bytes = await this.#extent(what, offset, length, 'blake3', hash);
    return JSON.parse(new TextDecoder().decode(bytes)) as T;
  }

  async #extent(
    what: Extent['what'],
    offset: number,
    length: number,
    algorithm: string,
    hash: string,
  ): Promise<Uint8Array> {
    if (offset < 131072 || offset + length > this.#newestEnd()) throw new Error('outside the image');
    const bytes = this.#image.subarray(offset, offset + length);
    const found = algorithm === 'xxh64' ? h64Raw(bytes).toString(16).padStart(16, '0') : await blake3(bytes);
    if (found !== hash) throw new Error(`${what} at ${offset} does not match its hash`);
    this.reached.push({ what, offset, length });
    return bytes;
  }

  #newestEnd(): number {
    return this.#superblock?.end ?? this.#image.length;
  }

  #u64(offset: number): number {
    return Number(this.#view.getBigUint64(offset, true));
  }
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
