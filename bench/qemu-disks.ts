import { rm, truncate, writeFile } from 'node:fs/promises';
import { QmpClient } from './qmp.js';
import type { ServingSystem } from './served-disks.js';
import { startServing } from './serving-program.js';

/**
 * qemu-storage-daemon, told over its monitor to start a transaction of one `blockdev-backup` job per disk, which fixes
 * all disks at one instant and copies them to raw files. Its exports stay in its main thread: with I/O threads version 7.2
 * aborts as soon as a client leaves.
 */
export const qemuDisks: ServingSystem = {
  name: 'qemu-storage-daemon',
  ways: ['blockdev-backup'],

  async serve(disks, directory) {
    const [socket, monitor] = [directory.file('qemu.sock'), directory.file('qmp.sock')];
    const targets: string[] = [];
    for (const [i, { sizeBytes }] of disks.entries()) {
      const target = directory.file(`target${i}.raw`);
      await writeFile(target, '');
      await truncate(target, sizeBytes);
      targets.push(target);
    }
    const args = [
      ...['--nbd-server', `addr.type=unix,addr.path=${socket},max-connections=64`],
      ...disks.flatMap(({ path }, i) => [
        ...raw(`disk${i}`, path),
        ...raw(`target${i}`, targets[i] ?? ''),
        ...['--export', `type=nbd,id=export${i},node-name=disk${i},name=disk${i},writable=on`],
      ]),
      ...['--chardev', `socket,path=${monitor},server=on,wait=off,id=qmp`, '--monitor', 'chardev=qmp'],
    ];
    const running = await startServing('qemu-storage-daemon', args, socket);
    const client = await QmpClient.connect(monitor);
    return {
      uris: disks.map((_, i) => `nbd+unix:///disk${i}?socket=${socket}`),
      async backUp() {
        const startMs = performance.now();
        await backUpAll(client, disks.length);
        return { elapsedMs: performance.now() - startMs };
      },
      async [Symbol.asyncDispose]() {
        client[Symbol.dispose]();
        await running[Symbol.asyncDispose]();
        await Promise.all(targets.map((target) => rm(target)));
      },
    };
  },
};

/** A file of raw bytes in the page cache, as a node of that name. */
function raw(name: string, path: string): string[] {
  // A comma in a value is written twice.
  const filename = path.replaceAll(',', ',,');
  return [
    ...['--blockdev', `driver=file,node-name=${name}-file,filename=${filename}`],
    ...['--blockdev', `driver=raw,node-name=${name},file=${name}-file`],
  ];
}

async function backUpAll(client: QmpClient, disks: number): Promise<void> {
  let gone = 0;
  let failure: unknown;
  let finish = (): void => {};
  const finished = new Promise<void>((resolve) => (finish = resolve));
  using _ = client.listen((event, data) => {
    if (event === 'BLOCK_JOB_COMPLETED') failure ??= data['error'];
    // The last that is heard of a job; its name is free again then.
    else if (event === 'JOB_STATUS_CHANGE' && data['status'] === 'null' && ++gone === disks) finish();
  });
  const actions = Array.from({ length: disks }, (__, i) => {
    const data = { 'job-id': `job${i}`, device: `disk${i}`, target: `target${i}`, sync: 'full' };
    return { type: 'blockdev-backup', data };
  });
  await client.execute('transaction', { actions });
  await finished;
  if (failure !== undefined) throw new Error(`QEMU's backup failed: ${JSON.stringify(failure)}`);
}
