import type { Core } from '../../core/core.js';
import { CofferdamError, isCofferdamError, messageOf } from '../../runtime/errors.js';
import { roundUp } from '../../runtime/sizes.js';
import { catalogSchema, emptyCatalog, type Catalog } from './catalog.js';
import { ALLOCATION_BYTES, DATA_START, SLOT_BYTES, SLOT_OFFSETS } from './layout.js';
import { ImageReader, isDamage } from './reader.js';
import { truncationAdvice, type ImageStore } from './store.js';
import { FORMAT_VERSION, decodeSlot, type Slot, type Superblock } from './superblock.js';

/** What the superblocks of an image say. */
export interface ImageHead {
  superblock: Superblock;
  catalog: Catalog;
  /** Damage that was got around; empty for a sound image. */
  warnings: string[];
  /**
   * Nothing that any generation can reach lies at or past this offset. Undefined when nobody can know, because a damaged
   * slot may refer to anything on a device whose size is fixed; or when the newest state was not readable, so that a
   * commit would drop its generation.
   */
  freeFromBytes: number | undefined;
}

/** Reads both slots; never throws for what is in them. */
export async function readSlots(store: ImageStore, core: Core): Promise<[Slot, Slot]> {
  return [await readSlot(store, core, 0), await readSlot(store, core, 1)];
}

async function readSlot(store: ImageStore, core: Core, index: 0 | 1): Promise<Slot> {
  const offset = SLOT_OFFSETS[index];
  // A file that ends inside the slot is judged by what there is of it.
  const bytes = new Uint8Array(SLOT_BYTES);
  const length = Math.min(SLOT_BYTES, (await store.sizeBytes()) - offset);
  try {
    if (length > 0) await store.read(offset, bytes.subarray(0, length));
  } catch (error) {
    if (!isCofferdamError(error, 'DEVICE_IO')) throw error;
    return {
      kind: 'damaged',
      reason: `it cannot be read: ${messageOf(error)}`,
      hasMagic: false,
      isUnreadable: true,
    };
  }
  return decodeSlot(index, bytes, core);
}

/**
 * Finds the newest generation that can be read.
 *
 * @throws CofferdamError NOT_AN_IMAGE, IMAGE_VERSION, IMAGE_TRUNCATED, IMAGE_CORRUPT, DEVICE_IO
 */
export async function readHead(store: ImageStore, core: Core): Promise<ImageHead> {
  const slots = await readSlots(store, core);
  const warnings = slotWarnings(store, slots);
  const sizeBytes = await store.sizeBytes();
  const candidates = rank(store, slots, sizeBytes);
  let failure: CofferdamError | undefined;
  for (const superblock of candidates) {
    checkEnd(store, superblock, sizeBytes);
    try {
      const catalog = await readCatalog(store, core, superblock);
      const isNewest = superblock === candidates[0];
      if (!isNewest) warnings.push(`${messageOf(failure)}; fell back to the state before it`);
      // To write now would drop for good what is only hard to read today.
      const isDropping = !isNewest || slots.some((slot) => slot.kind === 'damaged' && slot.isUnreadable);
      const freeFromBytes = isDropping ? undefined : freeFrom(store, slots, candidates, sizeBytes);
      return { superblock, catalog, warnings, freeFromBytes };
    } catch (error) {
      if (!isDamage(error)) throw error;
      failure ??= error;
    }
  }
  throw failure ?? new CofferdamError('IMAGE_CORRUPT', `${store.name}: no superblock can be read`);
}

/** @throws CofferdamError IMAGE_CORRUPT, IMAGE_TRUNCATED, DEVICE_IO */
export async function readCatalog(store: ImageStore, core: Core, superblock: Superblock): Promise<Catalog> {
  if (superblock.catalog === null) return emptyCatalog;
  const reader = new ImageReader(store, core, superblock.endBytes);
  return reader.readJson(
    superblock.catalog,
    catalogSchema,
    `the catalog of superblock ${superblock.sequence}`,
  );
}

/** What is wrong with the slots, for people. */
export function slotWarnings(store: ImageStore, slots: readonly Slot[]): string[] {
  // Only the very first superblock has a blank slot beside it; later a blank slot is a superblock that got lost.
  const isNew = slots.some((slot) => slot.kind === 'valid' && slot.superblock.sequence === 1);
  return slots.flatMap((slot, index) => {
    const reason =
      slot.kind === 'damaged' ? slot.reason : slot.kind === 'blank' && !isNew ? 'it is blank' : undefined;
    if (reason === undefined) return [];
    return [
      `${store.name}: superblock slot ${index} at ${SLOT_OFFSETS[index]} is damaged (${reason}); ` +
        'the newest generation may be missing',
    ];
  });
}

/** The superblocks that can be used, the newest first. */
function rank(store: ImageStore, slots: readonly Slot[], sizeBytes: number): Superblock[] {
  const valid = slots.flatMap((slot) => (slot.kind === 'valid' ? [slot.superblock] : []));
  valid.sort((a, b) => b.sequence - a.sequence);
  const [newest, older] = valid;
  for (const slot of slots) {
    if (slot.kind === 'newer' && (!newest || slot.sequence > newest.sequence)) {
      throw new CofferdamError(
        'IMAGE_VERSION',
        `${store.name}: the image has format version ${slot.version} and asks for a reader of version ` +
          `${slot.minimumReader} or newer, this one reads version ${FORMAT_VERSION}; use a newer cofferdam`,
        { device: store.name },
      );
    }
  }
  if (!newest) throw noSuperblock(store, slots, sizeBytes);
  if (older && older.uuid !== newest.uuid) {
    throw new CofferdamError(
      'IMAGE_CORRUPT',
      `${store.name}: its two superblocks are of different images, ${newest.uuid} and ${older.uuid}`,
      { device: store.name },
    );
  }
  return valid;
}

function noSuperblock(store: ImageStore, slots: readonly Slot[], sizeBytes: number): CofferdamError {
  const details = { device: store.name, offsetBytes: 0, lengthBytes: Math.min(sizeBytes, DATA_START) };
  for (const slot of slots) {
    if (slot.kind !== 'damaged' || !slot.isUnreadable) continue;
    // It may well be an image; the medium keeps it to itself.
    const message = `${store.name}: whether it is a backup image cannot be told: a superblock slot: ${slot.reason}`;
    throw new CofferdamError('DEVICE_IO', message, details);
  }
  if (!slots.some((slot) => slot.kind === 'damaged' && slot.hasMagic)) {
    return new CofferdamError(
      'NOT_AN_IMAGE',
      `${store.name} is not a cofferdam backup image; give one, or for a new one a path where nothing is yet`,
      details,
    );
  }
  if (sizeBytes < DATA_START) {
    return new CofferdamError(
      'IMAGE_TRUNCATED',
      `${store.name} ends at ${sizeBytes}, before the first superblock does; ${truncationAdvice}`,
      details,
    );
  }
  const reasons = slots.map(
    (slot, index) => `slot ${index}: ${slot.kind === 'damaged' ? slot.reason : 'it is blank'}`,
  );
  return new CofferdamError(
    'IMAGE_CORRUPT',
    `${store.name}: neither superblock can be read (${reasons.join('; ')})`,
    details,
  );
}

function checkEnd(store: ImageStore, superblock: Superblock, sizeBytes: number): void {
  if (superblock.endBytes <= sizeBytes) return;
  throw new CofferdamError(
    'IMAGE_TRUNCATED',
    `${store.name} ends at ${sizeBytes}, but its data goes on to ${superblock.endBytes}: it was cut off; ${truncationAdvice}`,
    { device: store.name, offsetBytes: sizeBytes, lengthBytes: superblock.endBytes - sizeBytes },
  );
}

function freeFrom(
  store: ImageStore,
  slots: readonly Slot[],
  valid: readonly Superblock[],
  sizeBytes: number,
): number | undefined {
  const ends = valid.map((superblock) => superblock.endBytes);
  if (slotWarnings(store, slots).length > 0 || slots.some((slot) => slot.kind === 'newer')) {
    // What such a slot refers to is somewhere in the file, so all of the file is left alone.
    if (store.capacityBytes !== Infinity) return undefined;
    ends.push(sizeBytes);
  }
  return roundUp(Math.max(...ends), ALLOCATION_BYTES);
}

/**
 * All that is wrong with both slots and the catalogs they point to, whether or not it was in anybody's way; for people.
 */
export async function headFaults(store: ImageStore, core: Core): Promise<string[]> {
  const slots = await readSlots(store, core);
  const faults = slotWarnings(store, slots);
  for (const slot of slots) {
    if (slot.kind !== 'valid') continue;
    await readCatalog(store, core, slot.superblock).catch((error: unknown) => {
      if (!isDamage(error)) throw error;
      faults.push(error.message);
    });
  }
  return faults;
}
