import { test } from 'vitest';
import type { BlockDevice } from '#src/devices/block-device';
import { FileDevice } from '#src/devices/file';
import { MemoryDevice } from '#src/devices/memory';
import { NbdDevice, type NbdDeviceOptions } from '#src/nbd/client/device';
import { NbdServer } from '#src/nbd/server/server';
import { testConformance, type Subject } from '../devices/conformance.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/directory.js';
import { needs } from '../support/needs.js';
import {
  startNbdkit,
  startNbdkitFile,
  startNbdServer,
  startQemuNbd,
  type NbdPeer,
} from '../support/nbd-peers.js';
import { tableOf } from './haggler.js';

const odd = 200_001;
const aligned = 256 * 1024;

/** The client over a server of this project over a device, which goes away with them. */
async function overOwnServer(device: BlockDevice, directory: TemporaryDirectory): Promise<Subject> {
  const server = await NbdServer.listen({
    exports: tableOf([{ name: 'disk', device }]),
    listen: { kind: 'unix', path: directory.file('nbd.sock') },
  });
  const client = await NbdDevice.open(server.uriOf('disk'));
  return {
    device: client,
    [Symbol.asyncDispose]: async () => {
      await client.close();
      await server.close();
      await device.close();
      await directory[Symbol.asyncDispose]();
    },
  };
}

/** The client over a server that others wrote. */
async function over(starting: Promise<NbdPeer>, options?: NbdDeviceOptions): Promise<Subject> {
  const peer = await starting;
  const device = await NbdDevice.open(peer.uri, options);
  return {
    device,
    [Symbol.asyncDispose]: async () => {
      await device.close();
      await peer[Symbol.asyncDispose]();
    },
  };
}

testConformance({
  name: 'NBD, qemu-nbd',
  sizeBytes: aligned,
  test: needs('qemu-nbd'),
  open: (size) => over(startQemuNbd(size)),
  openReadOnly: (size) => over(startQemuNbd(size, '--read-only')),
});

testConformance({
  name: 'NBD, nbdkit memory, one connection',
  sizeBytes: odd,
  test: needs('nbdkit'),
  open: (size) => over(startNbdkit('memory', String(size)), { connections: 1 }),
  openReadOnly: (size) => over(startNbdkit('--readonly', 'memory', String(size)), { connections: 1 }),
});

testConformance({
  name: 'NBD, nbdkit file',
  sizeBytes: odd,
  test: needs('nbdkit'),
  open: (size) => over(startNbdkitFile(size)),
});

testConformance({
  name: 'NBD, nbdkit that knows no FUA, no zeroing, no holes and one connection',
  sizeBytes: odd,
  test: needs('nbdkit'),
  open: (size) =>
    over(
      startNbdkit(
        ...[
          '--filter=fua',
          '--filter=nozero',
          '--filter=noextents',
          '--filter=multi-conn',
          'memory',
          String(size),
        ],
        ...['zeromode=none', 'multi-conn-mode=disable'],
      ),
    ),
});

testConformance({
  name: 'NBD, nbdkit with blocks of 4096 bytes and requests of at most 8192',
  sizeBytes: aligned,
  test: needs('nbdkit'),
  open: (size) =>
    over(
      startNbdkit(
        ...['--filter=blocksize-policy', 'memory', String(size)],
        ...['blocksize-minimum=4096', 'blocksize-preferred=4096', 'blocksize-maximum=8192'],
        'blocksize-error-policy=error',
      ),
    ),
});

testConformance({
  name: 'NBD, nbd-server over TCP',
  sizeBytes: odd,
  test: needs('nbd-server'),
  open: (size) => over(startNbdServer(size, 'flush = true', 'fua = true', 'trim = true')),
  openReadOnly: (size) => over(startNbdServer(size, 'readonly = true')),
});

testConformance({
  name: 'NBD, our own server over memory',
  sizeBytes: odd,
  anySize: true,
  test,
  open: (size) => overOwnServer(new MemoryDevice(size), temporaryDirectory()),
});

async function overOwnFile(size: number, readOnly: boolean): Promise<Subject> {
  const directory = temporaryDirectory();
  const path = directory.file('disk.img');
  const file = await FileDevice.open(path, { create: { sizeBytes: size } });
  if (!readOnly) return await overOwnServer(file, directory);
  await file.close();
  return await overOwnServer(await FileDevice.open(path, { readOnly }), directory);
}

testConformance({
  name: 'NBD, our own server over a file',
  sizeBytes: odd,
  anySize: true,
  test,
  open: (size) => overOwnFile(size, false),
  openReadOnly: (size) => overOwnFile(size, true),
});
