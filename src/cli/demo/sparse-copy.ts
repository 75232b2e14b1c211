import { constants, copyFile } from 'node:fs/promises';
import { openDevice } from '../../devices/open.js';
import { MiB } from '../../runtime/sizes.js';

const STEP_BYTES = 4 * MiB;

/** Copies a file or block device into a new file, sharing its space or leaving holes out where that is possible. */
export async function sparseCopy(from: string, to: string, signal: AbortSignal): Promise<void> {
  const isShared = await copyFile(from, to, constants.COPYFILE_FICLONE_FORCE | constants.COPYFILE_EXCL).then(
    () => true,
    () => false,
  );
  if (isShared) return;
  await using source = await openDevice(from, { readOnly: true });
  await using target = await openDevice(to, { create: { sizeBytes: source.sizeBytes } });
  const buffer = new Uint8Array(STEP_BYTES);
  for (const extent of await source.allocation(0, source.sizeBytes)) {
    if (extent.kind === 'zero') continue;
    const end = extent.offsetBytes + extent.lengthBytes;
    for (let offset = extent.offsetBytes; offset < end; offset += STEP_BYTES) {
      signal.throwIfAborted();
      const part = buffer.subarray(0, Math.min(STEP_BYTES, end - offset));
      await source.read(offset, part);
      await target.write(offset, part);
    }
  }
}
