import { write } from 'node:fs';
import { promisify } from 'node:util';
import { GiB } from '../../runtime/sizes.js';
import type { Batch } from '../core.js';

const writeAt = promisify(write);

/** Node counts the bytes of one system call in 31 bits. */
const MAX_TRANSFER_BYTES = GiB;

/** See {@link Core.write}. */
export async function writeBatches(fd: number, batches: readonly Batch[]): Promise<void> {
  for (const batch of batches) await writeBatch(fd, batch);
}

async function writeBatch(fd: number, { bytes, places }: Batch): Promise<void> {
  for (let i = 0; i < places.length; i += 3) {
    const [offsetBytes = 0, at = 0, lengthBytes = 0] = places.subarray(i, i + 3);
    for (let done = 0; done < lengthBytes;) {
      const length = Math.min(lengthBytes - done, MAX_TRANSFER_BYTES);
      const { bytesWritten } = await writeAt(fd, bytes, at + done, length, offsetBytes + done);
      if (bytesWritten === 0) throw new Error('the operating system wrote nothing and gave no reason');
      done += bytesWritten;
    }
  }
}
