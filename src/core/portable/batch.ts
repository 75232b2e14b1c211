import { write } from 'node:fs';
import { promisify } from 'node:util';
import type { Batch } from '../core.js';

const writeAt = promisify(write);

/** See {@link Core.writeBatch}. */
export async function writeBatch(fd: number, { bytes, places }: Batch): Promise<void> {
  for (let i = 0; i < places.length; i += 3) {
    const [offsetBytes = 0, at = 0, lengthBytes = 0] = places.subarray(i, i + 3);
    for (let done = 0; done < lengthBytes;) {
      const { bytesWritten } = await writeAt(fd, bytes, at + done, lengthBytes - done, offsetBytes + done);
      if (bytesWritten === 0) throw new Error('the operating system wrote nothing and gave no reason');
      done += bytesWritten;
    }
  }
}
