import { NbdDevice, type NbdDeviceOptions } from '#src/nbd/client/device';
import { testConformance, type Subject } from '../devices/conformance.js';
import { needs } from '../support/needs.js';
import {
  startNbdkit,
  startNbdkitFile,
  startNbdServer,
  startQemuNbd,
  type NbdPeer,
} from '../support/nbd-peers.js';

const odd = 200_001;
const aligned = 256 * 1024;

/** The whole of src/nbd/client over a server that others wrote. */
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
