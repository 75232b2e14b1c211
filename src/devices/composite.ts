import { CofferdamError } from '../runtime/errors.js';
import type { BlockDevice, Capabilities } from './block-device.js';
import { allSettled } from './settle.js';

/** @throws CofferdamError BAD_ARGUMENT unless there is at least one child and none is given twice. */
export function assertChildren(kind: string, children: readonly BlockDevice[]): void {
  if (children.length === 0)
    throw new CofferdamError('BAD_ARGUMENT', `${kind}: needs at least one child device`);
  const twice = children.find((child, index) => children.indexOf(child) !== index);
  if (twice) {
    throw new CofferdamError(
      'BAD_ARGUMENT',
      `${kind}: ${twice.name} is given twice; each child needs its own bytes`,
    );
  }
}

/** What a device can do whose requests may go to any of its children, or to all. */
export function commonCapabilities(children: readonly BlockDevice[]): Capabilities {
  const all = children.map((child) => child.capabilities);
  return {
    readOnly: all.some((one) => one.readOnly), // A write may have to reach any child.
    fua: all.every((one) => one.fua), // It costs as much as on the worst child.
    trim: all.some((one) => one.trim), // Every child that gives space back helps.
    fastZero: all.every((one) => one.fastZero), // It costs as much as on the worst child.
    multiConnection: all.every((one) => one.multiConnection), // A flush goes to every child.
    preferredBlockBytes: Math.max(...all.map((one) => one.preferredBlockBytes)), // Powers of two: this one suits all.
  };
}

/** The size of the smallest child in bytes. */
export function smallestBytes(children: readonly BlockDevice[]): number {
  return Math.min(...children.map((child) => child.sizeBytes));
}

/** Closes every child, also when one of them fails to close. */
export function closeAll(children: readonly BlockDevice[]): Promise<void> {
  return allSettled(children.map((child) => child.close()));
}
