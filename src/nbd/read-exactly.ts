import type { Readable } from 'node:stream';
import { CofferdamError } from '../runtime/errors.js';

/**
 * The next `lengthBytes` bytes of a stream, however they are cut into packets. What comes after them stays in the
 * stream, whose own buffer is the only one, so backpressure works. One caller at a time.
 *
 * @throws CofferdamError CONNECTION_LOST if the stream ends first, or is destroyed.
 */
export function readExactly(stream: Readable, lengthBytes: number): Promise<Buffer> {
  if (lengthBytes === 0) return Promise.resolve(Buffer.alloc(0));
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      for (const event of events) stream.off(event, attempt);
    };
    const attempt = (): void => {
      const bytes = stream.read(lengthBytes) as Buffer | null;
      if (bytes?.length === lengthBytes) {
        stop();
        resolve(bytes);
      } else if (bytes !== null || stream.readableEnded || stream.destroyed) {
        // At its end a stream hands out what is left, which is too little.
        stop();
        reject(lost(stream));
      }
    };
    // They stay until the bytes are there: each time one is added anew, a stream that holds a part of them calls it at
    // once, and so would never come to receive the rest.
    for (const event of events) stream.on(event, attempt);
    attempt();
  });
}

const events = ['readable', 'end', 'close', 'error'] as const;

function lost(stream: Readable): CofferdamError {
  return new CofferdamError('CONNECTION_LOST', 'the other side closed the connection', {
    cause: stream.errored ?? undefined,
  });
}
