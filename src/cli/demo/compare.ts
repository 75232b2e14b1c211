import type { BlockDevice } from '../../devices/block-device.js';
import { MiB } from '../../runtime/sizes.js';

const STEP_BYTES = 4 * MiB;

/** Whether the first bytes of two devices are the same. */
export async function haveSameContent(
  a: BlockDevice,
  b: BlockDevice,
  lengthBytes: number,
  signal: AbortSignal,
): Promise<boolean> {
  const left = new Uint8Array(STEP_BYTES);
  const right = new Uint8Array(STEP_BYTES);
  for (let offset = 0; offset < lengthBytes; offset += STEP_BYTES) {
    signal.throwIfAborted();
    const length = Math.min(STEP_BYTES, lengthBytes - offset);
    await a.read(offset, left.subarray(0, length));
    await b.read(offset, right.subarray(0, length));
    if (Buffer.compare(left.subarray(0, length), right.subarray(0, length)) !== 0) return false;
  }
  return true;
}
