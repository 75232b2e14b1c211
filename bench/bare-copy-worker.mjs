// A thread of a bare copy. It is plain JavaScript because threads do not load TypeScript.
import { readSync, writeSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';

/** A mebibyte stays in the processor's cache between the read and the write. */
const buffer = new Uint8Array(2 ** 20);

parentPort?.on('message', (/** @type {import('./bare-copy.js').BareCopyTask} */ task) => {
  copyPieces(task);
  parentPort?.postMessage('done');
});

/** @param {import('./bare-copy.js').BareCopyTask} task */
function copyPieces({ sourceFd, targetFd, sizeBytes, cursor, writing }) {
  for (;;) {
    const start = Number(Atomics.add(cursor, 0, BigInt(buffer.length)));
    if (start >= sizeBytes) return;
    const piece = buffer.subarray(0, Math.min(buffer.length, sizeBytes - start));
    transferAll(piece, (rest, at) => readSync(sourceFd, rest, 0, rest.length, start + at));
    // As the copy core does: threads that wait for the file system's lock would burn the processor.
    while (Atomics.compareExchange(writing, 0, 0, 1) !== 0) Atomics.wait(writing, 0, 1);
    transferAll(piece, (rest, at) => writeSync(targetFd, rest, 0, rest.length, start + at));
    Atomics.store(writing, 0, 0);
    Atomics.notify(writing, 0, 1);
  }
}

/**
 * The system may transfer less than it is asked to.
 *
 * @param {Uint8Array} piece
 * @param {(rest: Uint8Array, at: number) => number} transfer
 */
function transferAll(piece, transfer) {
  for (let at = 0; at < piece.length;) {
    const count = transfer(piece.subarray(at), at);
    if (count === 0) throw new Error('the source ended early');
    at += count;
  }
}
