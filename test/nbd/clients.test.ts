import { expect } from 'vitest';
import { MemoryDevice } from '#src/devices/memory';
import { needs } from '../support/needs.js';
import { runProcess } from '../support/process.js';
import { serve } from './haggler.js';

const disk = {
  name: 'disk',
  description: 'a disk',
  device: new MemoryDevice(1_048_576),
  contexts: [{ name: 'x-test:it', describe: () => Promise.resolve([{ lengthBytes: 512, flags: 0 }]) }],
};
const other = { name: 'with/slash and space', device: new MemoryDevice(512) };

/** What a program prints, as JSON. */
async function json(command: string, ...args: string[]): Promise<unknown> {
  const { exitCode, stdout, stderr } = await runProcess(command, args);
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
  return JSON.parse(stdout);
}

needs('nbdinfo')('nbdinfo lists the exports, with all that they can do', async () => {
  await using served = await serve([disk, other]);
  expect(await json('nbdinfo', '--list', '--json', served.server.uriOf(''))).toMatchObject({
    protocol: 'newstyle-fixed',
    structured: true,
    exports: [
      {
        'export-name': 'disk',
        description: 'a disk',
        'export-size': 1_048_576,
        contexts: ['base:allocation', 'x-test:it'],
        is_read_only: false,
        can_multi_conn: true,
        can_df: true,
        can_fua: true,
        block_size_minimum: 1,
        block_size_maximum: 33_554_432,
      },
      { 'export-name': 'with/slash and space', 'export-size': 512, contexts: ['base:allocation'] },
    ],
  });
});

needs('nbdinfo', 'qemu-img')('the URIs of exports are understood by nbdinfo and qemu-img', async () => {
  await using served = await serve([disk, other]);
  for (const { name, device } of [disk, other]) {
    const uri = served.server.uriOf(name);
    expect(await json('nbdinfo', '--json', uri)).toMatchObject({
      exports: [{ 'export-name': name, 'export-size': device.sizeBytes }],
    });
    expect(await json('qemu-img', 'info', '--output=json', uri)).toMatchObject({
      'virtual-size': device.sizeBytes,
    });
  }
});
