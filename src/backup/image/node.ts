import type { HashAlgorithm } from '../../core/core.js';
import { invariant } from '../../runtime/errors.js';
import { ENTRY_FIXED_BYTES, FANOUT, NODE_HEADER_BYTES, entryLength, nodeLength } from './map-shape.js';

/*
 * Byte layout of a block-map node, little-endian:
 *
 *      0   8  magic "cfdmnode"
 *      8   1  level: 0 for a leaf
 *      9   1  hash algorithm: 1 xxh64, 2 blake3
 *     10   2  entries in use
 *     12   4  zero
 *     16      256 entries; those not in use are zero
 *
 * and of an entry, in leaves and inner nodes alike:
 *
 *      0   8  offset in the image
 *      8   4  length as stored
 *     12   1  kind
 *     13   1  compression: 0 none
 *     14   2  zero
 *     16      hash of the stored bytes, 8 or 32 bytes
 *
 * An entry of kind 0 is zero throughout: everything under it is zeros. A node has no checksum of its own; it is in the
 * entry that points to it, so the root's hash covers all.
 */
export const EntryKind = {
  Zero: 0,
  Node: 1,
  Raw: 2,
  /** Reserved. */
  Compressed: 3,
  /** Reserved: the hash of a block whose data is not stored. */
  HashOnly: 4,
} as const;

const magic = new TextEncoder().encode('cfdmnode');
const algorithmCodes: Readonly<Record<HashAlgorithm, number>> = { xxh64: 1, blake3: 2 };

/** The bytes of a node, for reading and filling in. What is read from an image is checked by the reader. */
export class Node {
  readonly #view: DataView;
  readonly #entryBytes: number;

  private constructor(
    readonly bytes: Uint8Array,
    readonly algorithm: HashAlgorithm,
  ) {
    invariant(
      bytes.length === nodeLength(algorithm),
      'a node has the length that its hash algorithm gives it',
    );
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#entryBytes = entryLength(algorithm);
  }

  /** A node whose entries are all zero. */
  static blank(algorithm: HashAlgorithm, level: number, count: number): Node {
    const node = new Node(new Uint8Array(nodeLength(algorithm)), algorithm);
    node.bytes.set(magic);
    node.#view.setUint8(8, level);
    node.#view.setUint8(9, algorithmCodes[algorithm]);
    node.#view.setUint16(10, count, true);
    return node;
  }

  static over(bytes: Uint8Array, algorithm: HashAlgorithm): Node {
    return new Node(bytes, algorithm);
  }

  /** What is wrong with the header, or undefined. */
  headerFault(level: number, count: number): string | undefined {
    const expected = Node.blank(this.algorithm, level, count).bytes.subarray(0, NODE_HEADER_BYTES);
    const found = this.bytes.subarray(0, NODE_HEADER_BYTES);
    if (Buffer.compare(found, expected) === 0) return undefined;
    if (Buffer.compare(found.subarray(0, magic.length), magic) !== 0) return 'it has no magic number';
    return (
      `level ${this.#view.getUint8(8)}, algorithm ${this.#view.getUint8(9)}, ` +
      `${this.#view.getUint16(10, true)} entries; expected level ${level}, ` +
      `algorithm ${algorithmCodes[this.algorithm]}, ${count} entries`
    );
  }

  /** The bytes of an entry; what is written to them changes the node. */
  entry(index: number): Uint8Array {
    const start = NODE_HEADER_BYTES + index * this.#entryBytes;
    return this.bytes.subarray(start, start + this.#entryBytes);
  }

  kind(index: number): number {
    return this.#view.getUint8(this.#at(index) + 12);
  }

  /** May be beyond the safe integers; the reader's range check refuses it then. */
  offset(index: number): number {
    return (
      this.#view.getUint32(this.#at(index), true) + this.#view.getUint32(this.#at(index) + 4, true) * 2 ** 32
    );
  }

  length(index: number): number {
    return this.#view.getUint32(this.#at(index) + 8, true);
  }

  /** Compression and the reserved bytes: zero in every entry that this version reads. */
  extras(index: number): number {
    return this.#view.getUint8(this.#at(index) + 13) | this.#view.getUint16(this.#at(index) + 14, true);
  }

  /** Whether all bytes of an entry are zero. */
  isBlankEntry(index: number): boolean {
    const start = this.#at(index);
    for (let at = start; at < start + this.#entryBytes; at += 8) {
      if (this.#view.getUint32(at) !== 0 || this.#view.getUint32(at + 4) !== 0) return false;
    }
    return true;
  }

  hash(index: number): Uint8Array {
    return this.entry(index).subarray(ENTRY_FIXED_BYTES);
  }

  set(index: number, kind: number, offset: number, length: number, hash: Uint8Array): void {
    const start = this.#at(index);
    this.#view.setUint32(start, offset % 2 ** 32, true);
    this.#view.setUint32(start + 4, Math.floor(offset / 2 ** 32), true);
    this.#view.setUint32(start + 8, length, true);
    this.#view.setUint8(start + 12, kind);
    this.bytes.set(hash, start + ENTRY_FIXED_BYTES);
  }

  /** Whether nothing under this node is anything but zeros. */
  isZero(): boolean {
    for (let i = 0; i < FANOUT; i++) if (this.kind(i) !== EntryKind.Zero) return false;
    return true;
  }

  #at(index: number): number {
    return NODE_HEADER_BYTES + index * this.#entryBytes;
  }
}
