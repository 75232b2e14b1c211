import { mkdir, open, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { openImage } from '#src/backup/image/open';
import { NbdDevice } from '#src/nbd/client/device';
import { differenceAt, randomBytes, readBytes } from '../support/bytes.js';
import { runCli } from '../support/cli.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/directory.js';
import { attachLoop, mount, run } from '../support/loop-device.js';
import { mountExport } from '../support/nbdfuse.js';
import { needs } from '../support/needs.js';
import { runProcess } from '../support/process.js';
import { startCli, type ServedCli } from '../support/served.js';
import { makeFileSystem, makePlainDisk } from './disk.js';
import { expectDone, expectFailure } from './expectations.js';

/** Backs devices up to `x` in the folder; `--listen` for its socket comes with it. */
async function backUp(directory: TemporaryDirectory, ...devices: string[]): Promise<void> {
  const { exitCode, stderr } = await runCli(['backup', '--to', 'x', '--device', ...devices], {
    cwd: directory.path,
  });
  expect(exitCode, stderr).toBe(0);
}

function openGeneration(
  directory: TemporaryDirectory,
  options: readonly string[] = [],
  env = {},
): Promise<ServedCli> {
  const listen = `nbd+unix:///?socket=${directory.file('socket')}`;
  return startCli(['open', 'x', '--listen', listen, ...options], { cwd: directory.path, env });
}

/** Only the native core locks files against other processes. */
const native = { COFFERDAM_CORE: 'native' };

const writable = ['--writable', '--overlay', 'trial'];

test('the devices are there as they were, each under its ID, and cannot be written', async () => {
  await using directory = temporaryDirectory();
  const [a, b] = [directory.file('a.img'), directory.file('b.img')];
  const contents = { a: await makePlainDisk(a), b: await makePlainDisk(b, 100_000, 1234) };
  await backUp(directory, a, b);
  await writeFile(a, 'later');
  await backUp(directory, b);

  await using served = await openGeneration(directory, ['--generation', '1']);
  expect(served.document).toMatchObject({ generation: 1, exports: [{ name: 'a' }, { name: 'b' }] });
  for (const [id, content] of Object.entries(contents)) {
    await using device = await NbdDevice.open(served.uriOf(id));
    expect(differenceAt(await readBytes(device, 0, content.length), content)).toBeUndefined();
    expect(device.capabilities.readOnly).toBe(true);
    await expect(device.write(0, Uint8Array.of(1))).rejects.toMatchObject({ code: 'READ_ONLY' });
  }
  const { exitCode, stderr } = await served.stop();
  expect(exitCode).toBe(0);
  expect(stderr).toContain('cofferdam: stopping\n');
});

test('what it says of its exports can be used from any folder', async () => {
  await using directory = temporaryDirectory();
  await makePlainDisk(directory.file('a.img'));
  await backUp(directory, 'a.img');
  await using served = await startCli(['open', 'x', '--listen', 'nbd+unix:///?socket=s'], {
    cwd: directory.path,
  });
  expect(served.uriOf('a')).toBe(`nbd+unix:///a?socket=${directory.file('s')}`);
});

needs('native core')('the image is only read: so may others, and nobody may write', async () => {
  await using directory = temporaryDirectory();
  await makePlainDisk(directory.file('a.img'));
  await backUp(directory, 'a.img');
  await using _served = await openGeneration(directory, [], native);
  const options = { cwd: directory.path, env: native };
  expectDone(await runCli(['verify', 'x'], options));
  expectFailure(await runCli(['backup', '--to', 'x', '--device', 'a.img'], options), 'DEVICE_BUSY');
});

needs(
  'qemu-img',
  'nbdcopy',
  'nbdinfo',
  'mke2fs',
)('the tools of others see what restore writes', async () => {
  await using directory = temporaryDirectory();
  await makeFileSystem(directory.file('a.img'));
  await backUp(directory, 'a.img');
  expectDone(await runCli(['restore', 'x', '--to-dir', 'out'], { cwd: directory.path }));
  const restored = directory.file('out/a.img');
  await using served = await openGeneration(directory);
  const uri = served.uriOf('a');

  await run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', uri, restored);
  await run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', uri, directory.file('a.qcow2'));
  await run('qemu-img', 'compare', '-F', 'raw', directory.file('a.qcow2'), restored);
  await run('nbdcopy', '--connections=4', uri, directory.file('copy.img'));
  await run('cmp', directory.file('copy.img'), restored);
  expect((await stat(directory.file('copy.img'))).blocks * 512).toBeLessThan(32 * 2 ** 20);

  const map = JSON.parse(await run('qemu-img', 'map', '--output=json', '-f', 'raw', uri)) as {
    start: number;
    length: number;
    zero: boolean;
  }[];
  const bytes = await readFile(restored);
  expect(map.reduce((sum, { length }) => sum + length, 0)).toBe(bytes.length);
  expect(map.some(({ zero }) => zero)).toBe(true);
  for (const { start, length, zero } of map) {
    if (zero) expect(bytes.subarray(start, start + length).every((byte) => byte === 0)).toBe(true);
  }
  expect(await run('nbdinfo', '--list', uri)).toContain('description: generation 1');
});

test('a read of a damaged block fails, and the server says where', async () => {
  await using directory = temporaryDirectory();
  const content = await makePlainDisk(directory.file('a.img'));
  await backUp(directory, 'a.img');
  const block = 65_536;
  await using image = await openImage(directory.file('x'));
  const leaf = await image.blockMap(await image.record(1), 'a').leaf(0);
  await image.close();
  await using file = await open(directory.file('x'), 'r+');
  await file.write(Uint8Array.of(255 ^ (content[3 * block] ?? 0)), 0, 1, leaf?.offsets[3] ?? 0);

  await using served = await openGeneration(directory);
  await using device = await NbdDevice.open(served.uriOf('a'));
  for (let i = 0; i < 3; i++) {
    await expect(device.read(3 * block + 5, new Uint8Array(10))).rejects.toMatchObject({ code: 'DEVICE_IO' });
  }
  const rest = await readBytes(device, 4 * block, content.length - 4 * block);
  expect(differenceAt(rest, content.subarray(4 * block))).toBeUndefined();
  const { stderr } = await served.stop();
  const warnings = stderr.split('\n').filter((line) => line.includes('warning'));
  expect(warnings).toEqual([
    expect.stringMatching(/^cofferdam: warning: a of generation 1 .*: 65536 bytes at 196608 are lost: /),
  ]);
});

describe('with overlays', () => {
  test('what is written is there again the next time, and is not in the image', async () => {
    await using directory = temporaryDirectory();
    const content = await makePlainDisk(directory.file('a.img'));
    await makePlainDisk(directory.file('b.img'), 100_000, 1234);
    await backUp(directory, 'a.img', 'b.img');
    const before = await readFile(directory.file('x'));
    const written = randomBytes(50_000, 7);
    {
      await using served = await openGeneration(directory, writable);
      await using device = await NbdDevice.open(served.uriOf('a'));
      await device.write(1000, written);
      await device.close();
      // Nobody asked for a flush, but it ends in order.
      expect((await served.stop()).exitCode).toBe(0);
    }
    expect((await readdir(directory.file('trial'))).sort()).toEqual(['a.overlay', 'b.overlay']);
    {
      await using served = await openGeneration(directory, writable);
      await using device = await NbdDevice.open(served.uriOf('a'));
      expect(differenceAt(await readBytes(device, 1000, 50_000), written)).toBeUndefined();
      await device.write(0, Uint8Array.of(42), { fua: true });
      await served.kill();
    }
    await using served = await openGeneration(directory, writable);
    await using device = await NbdDevice.open(served.uriOf('a'));
    expect(await readBytes(device, 0, 2)).toEqual(Uint8Array.of(42, content[1] ?? 0));
    expect(differenceAt(await readFile(directory.file('x')), before)).toBeUndefined();
  });

  needs('root')('an overlay that cannot be flushed at the end is a failure, and is told as one', async () => {
    await using directory = temporaryDirectory();
    await makePlainDisk(directory.file('a.img'));
    await backUp(directory, 'a.img');
    const small = directory.file('small');
    await mkdir(small);
    await using _mount = await mount('-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', small);
    await using served = await openGeneration(directory, ['--writable', '--overlay', 'small/trial']);
    await using device = await NbdDevice.open(served.uriOf('a'), { reconnectMs: 0 });
    await device.write(0, new Uint8Array(64 * 1024).fill(1));
    await writeFile(join(small, 'filler'), new Uint8Array(2 * 2 ** 20)).catch(() => {});
    const { exitCode, stderr } = await served.stop();
    expect(stderr).toMatch(/^cofferdam: stopping\ncofferdam: DEVICE_FULL: small\/trial: .*\n$/);
    expect(exitCode).toBe(1);
  });

  needs('native core')('an overlay fits one generation, and one opener', async () => {
    await using directory = temporaryDirectory();
    await makePlainDisk(directory.file('a.img'));
    await backUp(directory, 'a.img');
    await backUp(directory, 'a.img');
    await using served = await openGeneration(directory, ['--generation', '1', ...writable], native);
    const listen = ['--listen', `nbd+unix:///?socket=${directory.file('other')}`];
    const open = (generation: string): ReturnType<typeof runCli> =>
      runCli(['open', 'x', '--generation', generation, ...listen, ...writable], {
        cwd: directory.path,
        env: native,
      });
    expectFailure(await open('1'), 'DEVICE_BUSY');
    await served.stop();
    expect(expectFailure(await open('2'), 'NOT_AN_OVERLAY')).toContain(
      'trial is an overlay over 4194304 bytes',
    );
    expectFailure(await open('3'), 'UNKNOWN_GENERATION');
  });

  needs(
    'root',
    'nbdfuse',
    'fusermount3',
    'mke2fs',
    'e2fsck',
    '/dev/fuse',
    '/dev/loop-control',
  )(
    'a file system is mounted, changed, and found changed and sound the next time',
    async () => {
      await using directory = temporaryDirectory();
      await makeFileSystem(directory.file('a.img'));
      await backUp(directory, 'a.img');
      const before = await readFile(directory.file('x'));
      const folder = directory.file('mounted');
      await mkdir(folder);
      {
        await using served = await openGeneration(directory, writable);
        await using file = await mountExport(served.uriOf('a'));
        await using loop = await attachLoop(file.path);
        await using _mounted = await mount(loop.path, folder);
        await writeFile(join(folder, 'new'), randomBytes(3_000_000, 9));
        await run('rm', join(folder, 'index.ts'));
      }
      {
        await using served = await openGeneration(directory, writable);
        await using file = await mountExport(served.uriOf('a'));
        const check = await runProcess('/usr/sbin/e2fsck', ['-fn', file.path]);
        expect(check, check.stdout).toMatchObject({ exitCode: 0 });
        await using loop = await attachLoop(file.path);
        await using _mounted = await mount(loop.path, folder);
        const found = await readFile(join(folder, 'new'));
        expect(differenceAt(found, randomBytes(3_000_000, 9))).toBeUndefined();
        expect(await readdir(folder)).not.toContain('index.ts');
      }
      expect(differenceAt(await readFile(directory.file('x')), before)).toBeUndefined();
      expectDone(await runCli(['verify', 'x'], { cwd: directory.path }));
    },
    60_000,
  );
});
