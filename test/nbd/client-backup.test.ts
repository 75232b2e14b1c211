import { writeFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { MemoryDevice } from '#src/devices/memory';
import { NbdServer } from '#src/nbd/server/server';
import { Random } from '#src/runtime/random';
import { KiB } from '#src/runtime/sizes';
import { openCluster } from '#src/servers/cluster';
import { parseClusterConfig, readClusterFile } from '#src/servers/cluster-config';
import { witnessRun } from '#src/witness/run';
import { describeVerdict } from '#src/witness/verdict';
import { temporaryDirectory } from '../support/directory.js';
import { startNbdkit, startQemuNbd } from '../support/nbd-peers.js';
import { needs } from '../support/needs.js';
import { testSeed } from '../support/seed.js';
import { tableOf } from './haggler.js';

const BLOCK = 4 * KiB;
const sizeBytes = 256 * KiB;

describe('a cluster whose servers stand on NBD exports', () => {
  for (const strategy of ['snapshot', 'hold', 'rolling'] as const) {
    needs('qemu-nbd', 'nbdkit')(`${strategy}: its backups are crash-consistent`, async () => {
      const seeds = new Random(testSeed());
      await using directory = temporaryDirectory({ inMemory: true });
      await using memory = new MemoryDevice(sizeBytes);
      await using ours = await NbdServer.listen({
        exports: tableOf([{ name: 'disk', device: memory }]),
        listen: { kind: 'unix', path: directory.file('nbd.sock') },
      });
      await using qemu = await startQemuNbd(sizeBytes);
      await using nbdkit = await startNbdkit(
        ...['--filter=blocksize-policy', 'memory', String(sizeBytes)],
        ...['blocksize-minimum=4096', 'blocksize-preferred=4096', 'blocksize-maximum=65536'],
        'blocksize-error-policy=error',
      );
      await using cluster = await openCluster({
        servers: [
          { id: 'ours', device: { kind: 'nbd', uri: ours.uriOf('disk') } },
          { id: 'qemu', device: { kind: 'nbd', uri: qemu.uri } },
          { id: 'nbdkit', device: { kind: 'nbd', uri: nbdkit.uri } },
        ],
      });
      for (let run = 0; run < 5; run++) {
        const seed = seeds.uint32();
        const { backup, verdict, workload } = await witnessRun({
          cluster,
          to: directory.file(`backup-${run}.cofferdam`),
          strategy,
          seed,
          writers: 8,
          workers: 1,
          blockSizeBytes: BLOCK,
          beforeMs: 20,
          afterMs: 10,
          maxStallMs: 30_000,
        });
        expect(verdict.group.consistent, `seed ${seed}:\n${describeVerdict(verdict.group)}`).toBe(true);
        expect(backup.consistency).toBe('group');
        expect(workload.writes).toBeGreaterThan(0);
        expect(workload).toMatchObject({ failedWrites: 0, failedReads: 0, failedFlushes: 0, violations: 0 });
      }
    });
  }
});

describe('the device kind nbd', () => {
  test('a URI that is none is refused with its line', async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('cluster.yaml');
    await writeFile(
      path,
      'servers:\n  - id: a\n    device:\n      kind: nbd\n      uri: http://localhost/x\n',
    );
    await expect(readClusterFile(path)).rejects.toMatchObject({
      code: 'BAD_CONFIG',
      message: expect.stringMatching(/line 5: .*http: is not a scheme of NBD/),
    });
  });

  test('sockets and certificates in a file are relative to it', async () => {
    await using directory = temporaryDirectory();
    const path = directory.file('cluster.yaml');
    const uri = 'nbds+unix:///disk?socket=sockets/a&tls-certificates=pki';
    await writeFile(path, `servers:\n  - id: a\n    device: { kind: nbd, uri: '${uri}' }\n`);
    const { servers } = await readClusterFile(path);
    expect(servers[0]?.device).toEqual({
      kind: 'nbd',
      uri: `nbds+unix:///disk?socket=${directory.file('sockets/a')}&tls-certificates=${directory.file('pki')}`,
    });
  });

  test('in an object they are left alone', () => {
    const device = { kind: 'nbd', uri: 'nbd+unix:///disk?socket=a' };
    expect(parseClusterConfig({ servers: [{ id: 'a', device }] }).servers[0]?.device).toEqual(device);
  });
});
