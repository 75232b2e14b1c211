import type { Readable } from 'node:stream';
import { CofferdamError } from '../runtime/errors.js';

/**
 * The next `lengthBytes` bytes of a stream, however they are cut into packets. What comes after them stays in the
 * stream, whose own buffer is the only one, so backpressure works. One caller at a time.
 *
 * @throws CofferdamError CONNECTION_LOST if the stream ends first, or is destroyed.
 */
export async function readExactly(stream: Readable, lengthBytes: number): Promise<Buffer> {
  if (lengthBytes === 0) return Buffer.alloc(0);
  for (;;) {
    const bytes = stream.read(lengthBytes) as Buffer | null;
    if (bytes?.length === lengthBytes) return bytes;
    // At its end a stream hands out what is left, which is too little.
    if (bytes !== null || stream.readableEnded || stream.destroyed) throw lost(stream);
    await moreOrEnd(stream);
  }
}

function moreOrEnd(stream: Readable): Promise<void> {
  return new Promise((resolve) => {
    const events = ['readable', 'end', 'close', 'error'] as const;
    const wake = (): void => {
      for (const event of events) stream.off(event, wake);
      resolve();
    };
    for (const event of events) stream.on(event, wake);
  });
}

function lost(stream: Readable): CofferdamError {
  return new CofferdamError('CONNECTION_LOST', 'the other side closed the connection', {
    cause: stream.errored ?? undefined,
  });
}
