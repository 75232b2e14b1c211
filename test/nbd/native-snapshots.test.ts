import { readdirSync, readlinkSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { NativePreImages } from '#src/core/core';
import { loadCore } from '#src/core/load';
import { Command, CommandFlag } from '#src/nbd/protocol';
import { Random } from '#src/runtime/random';
import { KiB, MiB } from '#src/runtime/sizes';
import type { CutRequest, CutSource } from '#src/servers/control';
import type { StorageServer } from '#src/servers/server';
import { differenceAt, randomBytes, readBytes } from '../support/bytes.js';
import { needs } from '../support/needs.js';
import { noteNativeSnapshots } from '../support/native-snapshots.js';
import { runProcess } from '../support/process.js';
import { testSeed } from '../support/seed.js';
import { connect, countReplies, disconnect, Site, spin } from './native-site.js';
import { Wire, type WireRequest } from './wire.js';

Wire.path = 'native';
const core = await loadCore();
const nativeTest = core.newWatch ? test : test.skip;

const BLOCK = 16 * KiB;
const UNIT = 4 * KiB;
/** It ends in the middle of a unit. */
const sizeBytes = MiB + 2 * UNIT + 100;

/** Those of a test, in their order. */
let snapshots: () => NativePreImages[] = () => [];

beforeEach(() => {
  snapshots = noteNativeSnapshots(core);
});
afterEach(async () => {
  await disconnect();
  vi.restoreAllMocks();
});

/** A server with random content. */
async function openSite(seed: number, options?: Parameters<typeof Site.open>[1]): Promise<Site> {
  const site = await Site.open(sizeBytes, options);
  await site.server.client.write(0, randomBytes(sizeBytes, seed));
  site.device.log.length = 0;
  return site;
}

/** How many writes went past JavaScript while each snapshot was live. */
function passed(): number[] {
  return snapshots().map((preImages) => preImages.passed);
}

/** How many this process has open. */
function spillFiles(): number {
  const targets = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return 'closed meanwhile';
    }
  });
  return targets.filter((target) => target.includes('.cofferdam-pre-images')).length;
}

let epoch = 0;

interface Cut {
  source: CutSource;
  /** What the device held in the turn of the confirmation. */
  content: Buffer;
}

async function cut(site: Site, changes: Partial<CutRequest> = {}): Promise<Cut> {
  const ticket = { epoch: ++epoch, coordinator: 'test' };
  const request: CutRequest = { ...ticket, leaseMs: 60_000, fixedBy: 'snapshot', blockSizeBytes: BLOCK };
  const { source } = await site.server.cut({ ...request, ...changes });
  const content = site.content();
  expect(await site.server.release(ticket)).toMatchObject({ heldWithoutBreak: true });
  return { source, content };
}

/** Writes of all lengths anywhere. */
function randomWrites(random: Random, count: number): WireRequest[] {
  return Array.from({ length: count }, (_, i) => {
    const offset = random.below(sizeBytes);
    const length = 1 + random.below(random.pick([16, UNIT, 3 * UNIT, 400 * KiB]));
    const payload = new Uint8Array(Math.min(length, sizeBytes - offset)).fill(random.below(256));
    return { command: Command.Write, cookie: BigInt(i), offset, payload };
  });
}

/** The same, but some are such as JavaScript makes, or clear a range of that length. */
function randomChanges(random: Random, count: number): WireRequest[] {
  return randomWrites(random, count).map((write) => {
    const { cookie = 0n, offset = 0, payload: { length } = new Uint8Array() } = write;
    const special: WireRequest[] = [
      { ...write, flags: CommandFlag.Fua },
      { command: Command.Trim, cookie, offset, length },
      { command: Command.WriteZeroes, cookie, offset, length },
      { command: Command.WriteZeroes, cookie, offset, length, flags: CommandFlag.NoHole },
    ];
    return random.chance(0.1) ? random.pick(special) : write;
  });
}

/** Makes writes, each after the one before; answers how many went through JavaScript. */
async function writeAll(site: Site, wire: Wire, writes: readonly WireRequest[]): Promise<number> {
  site.device.log.length = 0;
  for (const write of writes) {
    wire.send(write);
    expect(await wire.reply()).toMatchObject({ errno: 0 });
  }
  return writesThroughJavaScript(site);
}

function writesThroughJavaScript({ device }: Site): number {
  return device.log.filter((entry) => entry.startsWith('write')).length;
}

async function expectAsOfTheCut({ source, content }: Cut, why: string): Promise<void> {
  expect(differenceAt(await readBytes(source.device), content), why).toBeUndefined();
  await source.assertIntact();
}

nativeTest(
  'every live snapshot shows its own cut, whatever native threads and JavaScript write meanwhile',
  async () => {
    const seed = testSeed();
    const random = new Random(seed);
    for (let round = 0; round < 15; round++) {
      const memoryBytes = random.pick([0, 20 * UNIT, 64 * MiB]);
      await using site = await openSite(random.uint32(), { preImages: { memoryBytes } });
      const some = [await connect(site.server), await connect(site.server)];
      const live: Cut[] = [];
      for (let step = 0; step < 8; step++) {
        const why = `seed ${seed}, round ${round}, step ${step}`;
        // One that comes while the others are live.
        if (step === 3) some.push(await connect(site.server));
        const counts = some.map(countReplies);
        for (const wire of some) wire.send(...randomChanges(random, 60));
        const blockSizeBytes = random.pick([UNIT, 3 * UNIT, BLOCK, 2 * MiB]);
        if (random.chance(0.5)) live.push(await cut(site, { blockSizeBytes }));
        await Promise.all(live.map((each) => expectAsOfTheCut(each, why)));
        if (live.length > 2) await live.splice(random.below(3), 1)[0]?.source.close();
        await expect
          .poll(() => counts.map((count) => count()), { timeout: 20_000 })
          .toEqual(some.map(() => 60));
        for (const wire of some) wire.stream.removeAllListeners('data');
        await Promise.all(live.map((each) => expectAsOfTheCut(each, why)));
      }
      for (const { source } of live) await source.close();
      await disconnect();
    }
    // Else it was not they who preserved it.
    expect(passed().reduce((sum, count) => sum + count, 0)).toBeGreaterThan(1000);
  },
  120_000,
);

nativeTest('no write takes the way through JavaScript while a snapshot is live', async () => {
  const seed = testSeed();
  const random = new Random(seed);
  await using site = await openSite(seed);
  const before = await connect(site.server);
  const first = await cut(site);
  const after = await connect(site.server);
  expect(await writeAll(site, before, randomWrites(random, 100))).toBe(0);
  const second = await cut(site);
  expect(await writeAll(site, after, randomWrites(random, 100))).toBe(0);
  expect(passed()).toEqual([200, 100]);
  await expectAsOfTheCut(first, `seed ${seed}`);
  await expectAsOfTheCut(second, `seed ${seed}`);
  // Also what JavaScript makes is preserved, in the same store.
  await site.server.client.writeZeroes(0, sizeBytes);
  await expectAsOfTheCut(first, `seed ${seed}`);
  await expectAsOfTheCut(second, `seed ${seed}`);
  await first.source.close();
  expect(await writeAll(site, before, randomWrites(random, 10))).toBe(0);
  expect(passed()).toEqual([200, 110]);
  await second.source.close();
  // Nobody looks at what is closed.
  expect(await writeAll(site, before, randomWrites(random, 10))).toBe(0);
  expect(passed()).toEqual([200, 110]);
});

nativeTest('the last unit of a device may be short', async () => {
  await using site = await openSite(testSeed());
  const wire = await connect(site.server);
  const each = await cut(site);
  const payload = new Uint8Array(50).fill(1);
  expect(await writeAll(site, wire, [{ command: Command.Write, offset: sizeBytes - 50, payload }])).toBe(0);
  await expectAsOfTheCut(each, 'the end');
  await each.source.close();
});

nativeTest(
  'what has no room in memory goes to a file without a name, and makes room when it is copied',
  async () => {
    const seed = testSeed();
    // Room for the larger half of the device.
    const preImages = { memoryBytes: 10 * UNIT, spillBytes: 150 * UNIT };
    await using site = await openSite(seed, { preImages });
    const wire = await connect(site.server);
    const { source, content } = await cut(site);
    const half = 40 * BLOCK;
    const payload = new Uint8Array(half);
    expect(await writeAll(site, wire, [{ command: Command.Write, payload }])).toBe(0);
    expect(await readdir(site.directory.path)).toEqual(['image']);
    const seen = new Uint8Array(half);
    await source.device.read(0, seen);
    expect(differenceAt(seen, content.subarray(0, half)), `seed ${seed}`).toBeUndefined();
    source.markCopied(0, half / BLOCK);
    const rest = randomBytes(sizeBytes - half, 1);
    expect(await writeAll(site, wire, [{ command: Command.Write, offset: half, payload: rest }])).toBe(0);
    const behind = new Uint8Array(rest.length);
    await source.device.read(half, behind);
    expect(differenceAt(behind, content.subarray(half)), `seed ${seed}`).toBeUndefined();
    await source.assertIntact();
    expect(spillFiles()).toBe(1);
    await source.close();
    expect(spillFiles()).toBe(0);
  },
);

nativeTest('at the limit the snapshot breaks, and no write fails or is left out', async () => {
  const seed = testSeed();
  await using site = await openSite(seed, { preImages: { memoryBytes: 8 * UNIT, spillBytes: 8 * UNIT } });
  const wire = await connect(site.server);
  const { source } = await cut(site);
  const bytes = randomBytes(sizeBytes, seed + 1);
  const writes = Array.from({ length: 64 }, (_, i) => {
    const offset = i * BLOCK;
    return { command: Command.Write, offset, payload: bytes.subarray(offset, offset + BLOCK) };
  });
  // The one that finds no room goes through JavaScript, which breaks the snapshot; then nothing is in the way.
  expect(await writeAll(site, wire, writes)).toBe(1);
  const broken = { code: 'SNAPSHOT_BROKEN', device: 'a' };
  await expect(source.assertIntact()).rejects.toMatchObject(broken);
  await expect(source.assertIntact()).rejects.toThrow(/32.0 KiB in memory and 32.0 KiB spilled/);
  await expect(readBytes(source.device)).rejects.toMatchObject(broken);
  expect(differenceAt(site.content().subarray(0, MiB), bytes.subarray(0, MiB))).toBeUndefined();
  await source.close();
});

nativeTest('blocks that are copied, or were never wanted, take no room', async () => {
  const seed = testSeed();
  await using site = await openSite(seed, { preImages: { memoryBytes: 0, spillBytes: 0 } });
  const wire = await connect(site.server);
  const { source } = await cut(site);
  const blocks = Math.ceil(sizeBytes / BLOCK);
  source.markCopied(1, blocks - 1);
  const payload = randomBytes(sizeBytes - BLOCK, 1);
  expect(await writeAll(site, wire, [{ command: Command.Write, offset: BLOCK, payload }])).toBe(0);
  await source.assertIntact();
  // The one block that is not does.
  expect(await writeAll(site, wire, [{ command: Command.Write, offset: BLOCK - 1, payload }])).toBe(1);
  await expect(source.assertIntact()).rejects.toMatchObject({ code: 'SNAPSHOT_BROKEN' });
  await source.close();
});

nativeTest('of what a barrier has parked little is saved before others have their turn', async () => {
  const seed = testSeed();
  await using site = await openSite(seed);
  const content = site.content();
  const ticket = { epoch: ++epoch, coordinator: 'test' };
  const request: CutRequest = { ...ticket, leaseMs: 60_000, fixedBy: 'snapshot', blockSizeBytes: BLOCK };
  const { source } = await site.server.cut(request);
  const writes = Array.from({ length: 64 }, (_, i) =>
    site.server.client.write(i * BLOCK, new Uint8Array(BLOCK).fill(1)),
  );
  const [preImages] = snapshots();
  const preserveNow = vi.spyOn(preImages as NativePreImages, 'preserveNow');
  const released = site.server.release(ticket);
  const inOneTurn = preserveNow.mock.calls.reduce((sum, [, lengthBytes]) => sum + lengthBytes, 0);
  expect(inOneTurn).toBeGreaterThan(0);
  expect(inOneTurn).toBeLessThanOrEqual(256 * KiB);
  expect(await released).toMatchObject({ heldWithoutBreak: true, parkedRequests: 64 });
  await Promise.all(writes);
  await expectAsOfTheCut({ source, content }, `seed ${seed}`);
  // In a later turn there is time again.
  const calls = preserveNow.mock.calls.length;
  await new Promise(setImmediate);
  await site.server.client.write(0, new Uint8Array(1));
  expect(preserveNow).toHaveBeenCalledTimes(calls + 1);
  await source.close();
});

/** As far as it is written back. */
async function dropFromPageCache(path: string): Promise<void> {
  // With nothing to copy it advises the system to drop all of the file.
  await runProcess('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none']);
}

const coldTest = core.newWatch ? needs('dd') : test.skip;

coldTest('what would have to be read from a medium first goes through JavaScript', async () => {
  const seed = testSeed();
  const random = new Random(seed);
  await using site = await openSite(seed, { inMemory: false });
  await site.server.client.flush();
  const wire = await connect(site.server);
  const each = await cut(site);
  let handedOver = 0;
  for (let round = 0; round < 20 && handedOver === 0; round++) {
    await dropFromPageCache(site.directory.file('image'));
    handedOver += await writeAll(site, wire, randomWrites(random, 3));
  }
  expect(handedOver).toBeGreaterThan(0);
  await expectAsOfTheCut(each, `seed ${seed}`);
  await each.source.close();
});

/** Writes on some connections that never end until all of them are lost. */
async function writeWithoutEnd(server: StorageServer, random: Random): Promise<() => number> {
  const counts: (() => number)[] = [];
  for (let i = 0; i < 2; i++) {
    const wire = await connect(server);
    counts.push(countReplies(wire));
    wire.send(...randomWrites(random, 1500));
  }
  return () => counts.reduce((sum, count) => sum + count(), 0);
}

nativeTest(
  'snapshots come and go while native threads write',
  async () => {
    const seed = testSeed();
    const random = new Random(seed);
    for (let round = 0; round < 10; round++) {
      await using site = await openSite(seed, { preImages: { memoryBytes: 10 * UNIT } });
      const written = await writeWithoutEnd(site.server, random);
      while (written() < 3000) {
        const each = await cut(site);
        if (random.chance(0.5)) await expectAsOfTheCut(each, `seed ${seed}, round ${round}`);
        await each.source.close();
        await expect(each.source.assertIntact()).rejects.toMatchObject({ code: 'SNAPSHOT_BROKEN' });
      }
      expect(await site.server.status()).toMatchObject({ inFlight: 0, parked: 0, snapshots: 0 });
      await disconnect();
    }
  },
  120_000,
);

nativeTest(
  'a power cut breaks the snapshot, and nothing that was sent before reaches the device after it',
  async () => {
    const seed = testSeed();
    const random = new Random(seed);
    let interrupted = 0;
    for (let round = 0; round < 20; round++) {
      await using site = await openSite(seed, { preImages: { memoryBytes: 10 * UNIT } });
      const each = await cut(site);
      const wire = await connect(site.server);
      const count = countReplies(wire);
      wire.send(...randomWrites(random, 1500));
      while (count() < 10) await new Promise(setImmediate);
      const back = site.server.powerCut({ seed });
      wire.transmission.destroy();
      await back;
      const content = site.content();
      spin(2);
      expect(differenceAt(site.content(), content), `seed ${seed}, round ${round}`).toBeUndefined();
      await wire.ended;
      await expect(each.source.assertIntact()).rejects.toMatchObject({ code: 'SNAPSHOT_BROKEN' });
      if (count() < 1500) interrupted++;
      await each.source.close();
      await disconnect();
    }
    expect(interrupted).toBeGreaterThan(10);
  },
  120_000,
);
