import type { Core, HashAlgorithm } from '#src/core/core';

/** JSON that anything may be done to. */
export type Json = null | boolean | number | string | Json[] | { [member: string]: Json };

/** What a forger does to an image before all its checksums are made right again. */
export interface Forgery {
  /** Changes a node in place; node 0 is the root. */
  node?: { index: number; edit: (bytes: DataView) => void };
  /** Answers what is stored instead of the JSON. */
  record?: (record: Json) => Json | Uint8Array;
  catalog?: (catalog: Json) => Json | Uint8Array;
  /** Changes the first 480 bytes of the superblock. */
  superblock?: (bytes: DataView) => void;
}

interface NodePlace {
  offset: number;
  length: number;
  /** Where in the image its hash is kept; undefined for the root. */
  hashAt: number | undefined;
}

/**
 * Forges an image of one generation with one device: whatever is changed, every checksum above it is right again, so that a
 * reader meets the change and not the checksum.
 */
export function forge(image: Uint8Array, core: Core, forgery: Forgery): Uint8Array {
  const bytes = new Uint8Array(image.length + 4 * 1024 * 1024);
  bytes.set(image);
  const view = new DataView(bytes.buffer);
  const slot = view.getBigUint64(40, true) > view.getBigUint64(65536 + 40, true) ? 0 : 65536;
  let end = Number(view.getBigUint64(slot + 48, true));
  const append = (content: Uint8Array): { offset: number; length: number; hash: string } => {
    const place = { offset: end, length: content.length, hash: hex(core.hash('blake3', content)) };
    bytes.set(content, end);
    end += Math.ceil(content.length / 4096) * 4096;
    return place;
  };

  const catalogPlace = {
    offset: Number(view.getBigUint64(slot + 56, true)),
    length: view.getUint32(slot + 64, true),
  };
  const catalog = parse(bytes, catalogPlace);
  const entry = catalog.generations[0];
  if (!entry) throw new Error('there is nothing to forge');
  const record = parse(bytes, entry.record);
  const root = record.devices[0]?.root;
  if (!root) throw new Error('there is no map to forge');

  const nodes = placesOfNodes(view, root, record.hashAlgorithm);
  if (forgery.node) {
    const place = nodes[forgery.node.index % nodes.length];
    if (place) forgery.node.edit(new DataView(bytes.buffer, place.offset, place.length));
  }
  // Children come after their parents.
  for (const { offset, length, hashAt } of nodes.toReversed()) {
    const hash = core.hash(record.hashAlgorithm, bytes.subarray(offset, offset + length));
    if (hashAt === undefined) root.hash = hex(hash);
    else bytes.set(hash, hashAt);
  }

  const recordJson = forgery.record?.(toJson(record)) ?? toJson(record);
  const forgedRecord = append(encode(recordJson));
  // The catalog repeats the sum of the sizes; a contradiction would hide all others.
  entry.sizeBytes = sumOfSizes(recordJson) ?? entry.sizeBytes;
  entry.record = { offset: forgedRecord.offset, length: forgedRecord.length };
  entry.fingerprint = forgedRecord.hash;
  const forgedCatalog = append(encode(forgery.catalog?.(toJson(catalog)) ?? toJson(catalog)));
  view.setBigUint64(slot + 48, BigInt(end), true);
  view.setBigUint64(slot + 56, BigInt(forgedCatalog.offset), true);
  view.setUint32(slot + 64, forgedCatalog.length, true);
  bytes.set(Buffer.from(forgedCatalog.hash, 'hex'), slot + 72);
  forgery.superblock?.(new DataView(bytes.buffer, slot, 480));
  bytes.set(core.hash('blake3', bytes.subarray(slot, slot + 480)), slot + 480);
  return bytes.subarray(0, end);
}

function placesOfNodes(
  view: DataView,
  root: { offset: number; length: number; level: number },
  algorithm: HashAlgorithm,
): NodePlace[] {
  const entryBytes = 16 + (algorithm === 'xxh64' ? 8 : 32);
  const nodes: NodePlace[] = [{ offset: root.offset, length: root.length, hashAt: undefined }];
  for (const { offset } of nodes) {
    if (view.getUint8(offset + 8) === 0) continue;
    for (let at = offset + 16; at < offset + 16 + 256 * entryBytes; at += entryBytes) {
      if (view.getUint8(at + 12) !== 1) continue;
      const child = Number(view.getBigUint64(at, true));
      nodes.push({ offset: child, length: view.getUint32(at + 8, true), hashAt: at + 16 });
    }
  }
  return nodes;
}

function sumOfSizes(record: Json | Uint8Array): number | undefined {
  try {
    const { devices } = record as unknown as { devices: { sizeBytes: number }[] };
    const sum = devices.reduce((total, device) => total + device.sizeBytes, 0);
    return Number.isSafeInteger(sum) && sum >= 0 ? sum : undefined;
  } catch {
    return undefined;
  }
}

interface StoredJson {
  generations: { sizeBytes: number; record: { offset: number; length: number }; fingerprint: string }[];
  devices: { root: { offset: number; length: number; level: number; hash: string } | null }[];
  hashAlgorithm: HashAlgorithm;
}

function parse(bytes: Uint8Array, place: { offset: number; length: number }): StoredJson {
  return JSON.parse(
    Buffer.from(bytes.subarray(place.offset, place.offset + place.length)).toString(),
  ) as StoredJson;
}

function toJson(value: object): Json {
  return JSON.parse(JSON.stringify(value)) as Json;
}

function encode(content: Json | Uint8Array): Uint8Array {
  return content instanceof Uint8Array ? content : new TextEncoder().encode(JSON.stringify(content));
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
