import { test } from 'vitest';
import type { Core } from '#src/core/core';
import { loadCore } from '#src/core/load';
import type { BlockDevice } from '#src/devices/block-device';
import { BlockSpecialDevice } from '#src/devices/block-special';
import { FaultyDevice } from '#src/devices/faulty';
import { FileDevice } from '#src/devices/file';
import { MemoryDevice } from '#src/devices/memory';
import { MirroredDevice } from '#src/devices/mirrored';
import { newLayout } from '#src/devices/overlay-header';
import { OverlayDevice } from '#src/devices/overlay';
import { StripedDevice } from '#src/devices/striped';
import { VolatileCacheDevice } from '#src/devices/volatile-cache';
import { realClock } from '#src/runtime/clock';
import { Random } from '#src/runtime/random';
import { KiB } from '#src/runtime/sizes';
import { temporaryDirectory, type TemporaryDirectory } from '../support/directory.js';
import { attachLoop, run } from '../support/loop-device.js';
import { needs } from '../support/needs.js';
import { testConformance, type DeviceKind, type Subject } from './conformance.js';
import { JitteryDevice } from './jittery-device.js';

const aligned = 256 * KiB;
const odd = 200_001;

function subject(device: BlockDevice): Subject {
  return { device, [Symbol.asyncDispose]: () => device.close() };
}

/** Devices that stand on nothing but memory. */
function inMemory(name: string, sizeBytes: number, make: (sizeBytes: number) => BlockDevice): DeviceKind {
  return { name, sizeBytes, test, open: (size) => Promise.resolve(subject(make(size))) };
}

/** Devices that stand on files of a directory. */
async function onFiles(make: (directory: TemporaryDirectory) => Promise<BlockDevice>): Promise<Subject> {
  const directory = temporaryDirectory();
  const device = await make(directory);
  return {
    device,
    [Symbol.asyncDispose]: async () => {
      await device.close();
      await directory[Symbol.asyncDispose]();
    },
  };
}

function newFile(
  directory: TemporaryDirectory,
  name: string,
  sizeBytes: number,
  core?: Core,
): Promise<FileDevice> {
  return FileDevice.open(directory.file(name), { create: { sizeBytes }, core });
}

async function readOnlyFile(
  directory: TemporaryDirectory,
  name: string,
  sizeBytes: number,
): Promise<FileDevice> {
  await (await newFile(directory, name, sizeBytes)).close();
  return await FileDevice.open(directory.file(name), { readOnly: true });
}

const threeFiles = (
  directory: TemporaryDirectory,
  sizeBytes: number,
  open: typeof newFile | typeof readOnlyFile = newFile,
): Promise<FileDevice[]> => Promise.all(['a', 'b', 'c'].map((name) => open(directory, name, sizeBytes)));

testConformance({
  ...inMemory('memory', odd, (size) => new MemoryDevice(size)),
  anySize: true,
});

testConformance(
  inMemory('a jittery device, for the tests', odd, (size) => new JitteryDevice(size, new Random(size))),
);

for (const name of ['native', 'portable'] as const) {
  const open = (size: number): Promise<Subject> =>
    onFiles(async (directory) => newFile(directory, 'image', size, await loadCore(name)));
  testConformance({
    name: `file, ${name} core`,
    sizeBytes: odd,
    anySize: true,
    test: name === 'native' ? needs('native core') : test,
    open,
    openReadOnly: (size) => onFiles((directory) => readOnlyFile(directory, 'image', size)),
  });
}

for (const sectorBytes of [512, 4096]) {
  const open = async (size: number, readOnly: boolean): Promise<Subject> => {
    const directory = temporaryDirectory();
    await run('truncate', '--size', String(size), directory.file('image'));
    const loop = await attachLoop(directory.file('image'), '--sector-size', String(sectorBytes));
    const device = await BlockSpecialDevice.open(loop.path, { readOnly });
    return {
      device,
      [Symbol.asyncDispose]: async () => {
        await device.close();
        await loop[Symbol.asyncDispose]();
        await directory[Symbol.asyncDispose]();
      },
    };
  };
  testConformance({
    name: `block special, a loop device with sectors of ${sectorBytes} bytes`,
    sizeBytes: aligned,
    test: needs('root', 'losetup', '/dev/loop-control'),
    open: (size) => open(size, false),
    openReadOnly: (size) => open(size, true),
  });
}

testConformance(
  inMemory('striped over 3 in memory', 3 * 64 * 1536, (size) => {
    const children = [0, 1, 2].map(() => new MemoryDevice(size / 3));
    return new StripedDevice(children, { stripeBytes: 1536 });
  }),
);

testConformance(
  inMemory('striped over 2 jittery ones', aligned, (size) => {
    const children = [0, 1].map((index) => new JitteryDevice(size / 2, new Random(index)));
    return new StripedDevice(children, { stripeBytes: 4096 });
  }),
);

testConformance({
  name: 'striped over 3 files',
  sizeBytes: 3 * 64 * 4096,
  test,
  open: (size) =>
    onFiles(
      async (directory) => new StripedDevice(await threeFiles(directory, size / 3), { stripeBytes: 4096 }),
    ),
  openReadOnly: (size) =>
    onFiles(
      async (directory) =>
        new StripedDevice(await threeFiles(directory, size / 3, readOnlyFile), { stripeBytes: 4096 }),
    ),
});

testConformance({
  ...inMemory('mirrored over 2 in memory', odd, (size) => {
    return new MirroredDevice([new MemoryDevice(size), new MemoryDevice(size)]);
  }),
  anySize: true,
});

testConformance(
  inMemory('mirrored over 3 jittery ones', odd, (size) => {
    return new MirroredDevice([0, 1, 2].map((index) => new JitteryDevice(size, new Random(index))));
  }),
);

testConformance({
  name: 'mirrored over 3 files',
  sizeBytes: odd,
  test,
  open: (size) => onFiles(async (directory) => new MirroredDevice(await threeFiles(directory, size))),
  openReadOnly: (size) =>
    onFiles(async (directory) => new MirroredDevice(await threeFiles(directory, size, readOnlyFile))),
});

testConformance({
  ...inMemory(
    'faulty without rules',
    odd,
    (size) => new FaultyDevice(new MemoryDevice(size), { clock: realClock }),
  ),
  anySize: true,
  openReadOnly: (size) =>
    onFiles(
      async (directory) =>
        new FaultyDevice(await readOnlyFile(directory, 'image', size), { clock: realClock }),
    ),
});

testConformance({
  ...inMemory('volatile cache over memory', odd, (size) => new VolatileCacheDevice(new MemoryDevice(size))),
  anySize: true,
});

testConformance(
  inMemory('volatile cache over a jittery device', odd, (size) => {
    return new VolatileCacheDevice(new JitteryDevice(size, new Random(size)));
  }),
);

testConformance({
  name: 'volatile cache over a file',
  sizeBytes: odd,
  test,
  open: (size) =>
    onFiles(async (directory) => new VolatileCacheDevice(await newFile(directory, 'image', size))),
  openReadOnly: (size) =>
    onFiles(async (directory) => new VolatileCacheDevice(await readOnlyFile(directory, 'image', size))),
});

/** An overlay in a jittery file over a jittery base, both of which take every liberty they have. */
async function jitteryOverlay(size: number): Promise<Subject> {
  const base = new JitteryDevice(size, new Random(size));
  const file = new JitteryDevice(newLayout(size).fileBytes, new Random(size + 1));
  return subject(await OverlayDevice.on(file, { base, baseName: 'zeros' }));
}

testConformance({ name: 'overlay, jittery', sizeBytes: odd, anySize: true, test, open: jitteryOverlay });

testConformance({
  name: 'overlay in a file',
  sizeBytes: odd,
  test,
  open: (size) =>
    onFiles((directory) =>
      OverlayDevice.open(directory.file('overlay'), { base: new MemoryDevice(size), baseName: 'zeros' }),
    ),
});
