import type { BlockDevice } from '#src/devices/block-device';
import { Random } from '#src/runtime/random';

/** Bytes that look random; the same seed gives the same. */
export function randomBytes(lengthBytes: number, seed: number): Uint8Array<ArrayBuffer> {
  const random = new Random(seed);
  const words = new Uint32Array(Math.ceil(lengthBytes / 4));
  for (let i = 0; i < words.length; i++) words[i] = random.uint32();
  return new Uint8Array(words.buffer, 0, lengthBytes);
}

/** What a device holds in a range, by default in all of it. */
export async function readBytes(
  device: BlockDevice,
  offsetBytes = 0,
  lengthBytes = device.sizeBytes - offsetBytes,
): Promise<Uint8Array<ArrayBuffer>> {
  // Not zeros, so that a device that fills nothing in is found out.
  const into = new Uint8Array(lengthBytes).fill(0xa5);
  await device.read(offsetBytes, into);
  return into;
}

/** The first index at which two byte strings differ, or undefined. Quicker, and quicker to read, than a deep comparison. */
export function differenceAt(actual: Uint8Array, expected: Uint8Array): number | undefined {
  if (Buffer.compare(actual, expected) === 0) return undefined;
  for (let i = 0; i < expected.length; i++) if (actual[i] !== expected[i]) return i;
  return expected.length;
}
