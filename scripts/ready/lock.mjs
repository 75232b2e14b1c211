import { createHash } from 'node:crypto';
import { realpathSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Waits until no other process works on this tree, then keeps all others out until the returned function is called or
 * this process ends.
 *
 * The lock is a listening socket: the system closes it with its process, however that ends, so there are no stale
 * locks to tell from live ones. Whoever waits is connected to it and sees the connection end.
 *
 * @param {string} root
 * @param {() => void} onWait called once if the lock is not free.
 * @returns {Promise<() => void>} releases the lock.
 */
export async function acquireLock(root, onWait) {
  const name = `cofferdam-ready-${createHash('sha256').update(realpathSync(root)).digest('hex').slice(0, 16)}`;
  // A name that starts with a zero byte is not a file: Linux forgets it with the last socket that has it.
  const address = process.platform === 'linux' ? `\0${name}` : join(tmpdir(), `${name}.sock`);
  for (let attempt = 0; ; attempt++) {
    const release = await listen(address);
    if (release) return release;
    if (attempt === 0) onWait();
    await holderEnds(address);
  }
}

/**
 * @param {string} address
 * @returns {Promise<(() => void) | undefined>} closes the socket; nothing if someone else listens there.
 */
function listen(address) {
  return new Promise((resolve, reject) => {
    /** @type {Set<import('node:net').Socket>} */
    const waiting = new Set();
    const server = createServer((socket) => {
      waiting.add(socket);
      socket.on('error', () => {}).on('close', () => waiting.delete(socket));
    });
    server.on('error', (error) => {
      if ('code' in error && error.code === 'EADDRINUSE') resolve(undefined);
      else reject(error);
    });
    server.listen(address, () =>
      resolve(() => {
        server.close();
        for (const socket of waiting) socket.destroy();
      }),
    );
  });
}

/** @param {string} address */
async function holderEnds(address) {
  const refusal = await new Promise((resolve) => {
    const socket = connect(address).resume();
    socket.on('error', (error) => resolve('code' in error ? error.code : undefined));
    socket.on('close', () => resolve(undefined));
  });
  // Where the address is a file, it outlives a process that was killed.
  if (refusal === 'ECONNREFUSED' && !address.startsWith('\0')) rmSync(address, { force: true });
  await sleep(20);
}
