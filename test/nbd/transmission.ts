import { once } from 'node:events';
import { describe, expect, test } from 'vitest';
import type { Batch } from '#src/core/core';
import type { BlockDevice } from '#src/devices/block-device';
import { FaultyDevice } from '#src/devices/faulty';
import { FileDevice } from '#src/devices/file';
import { MemoryDevice } from '#src/devices/memory';
import { ReadOnlyDevice } from '#src/devices/read-only';
import type { MetaContext } from '#src/nbd/server/exports';
import { ChunkType, Command, CommandFlag, Errno, MAX_PAYLOAD_BYTES } from '#src/nbd/protocol';
import { realClock } from '#src/runtime/clock';
import { CofferdamError } from '#src/runtime/errors';
import { Random } from '#src/runtime/random';
import { KiB, MiB } from '#src/runtime/sizes';
import { StorageServer } from '#src/servers/server';
import { randomBytes } from '../support/bytes.js';
import { temporaryDirectory } from '../support/directory.js';
import { GatedDevice } from '../support/gated-device.js';
import { testSeed } from '../support/seed.js';
import { encodeRequest, Wire, type WireRequest } from './wire.js';

const sizeBytes = MiB;

/** Asks for something that always works, to see that the two sides are still in step. */
async function expectInStep(wire: Wire): Promise<void> {
  wire.send({ command: Command.Read, cookie: 0xfeedn, offset: 512, length: 512 });
  const reply = await wire.reply(512);
  expect(reply).toMatchObject({ cookie: 0xfeedn, errno: 0 });
}

/** Waits until a count has come to rest. */
async function standstill(count: () => number): Promise<void> {
  for (let before = -1; count() !== before;) {
    before = count();
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

describe.each([true, false])('refused requests, structured replies: %s', (structured) => {
  const length = 512;
  const payload = new Uint8Array(length);
  const past = BigInt(sizeBytes);
  const cases: [string, WireRequest, number][] = [
    ['an unknown command', { command: 99, length }, Errno.EINVAL],
    ['an unknown flag', { command: Command.Read, flags: 1 << 9, length }, Errno.EINVAL],
    ['an unknown flag on a write', { command: Command.Write, flags: 1 << 9, payload }, Errno.EINVAL],
    ['no-hole on a write', { command: Command.Write, flags: CommandFlag.NoHole, payload }, Errno.EINVAL],
    ['one descriptor of a read', { command: Command.Read, flags: CommandFlag.ReqOne, length }, Errno.EINVAL],
    ['an unfragmented write', { command: Command.Write, flags: CommandFlag.Df, payload }, Errno.EINVAL],
    ['a read past the end', { command: Command.Read, offset: past - 1n, length: 2 }, Errno.EINVAL],
    ['a read far past the end', { command: Command.Read, offset: past + 1n, length: 0 }, Errno.EINVAL],
    ['a write past the end', { command: Command.Write, offset: past - 1n, payload }, Errno.ENOSPC],
    ['zeroes past the end', { command: Command.WriteZeroes, offset: past, length: 1 }, Errno.ENOSPC],
    ['a trim past the end', { command: Command.Trim, offset: past, length: 1 }, Errno.EINVAL],
    ['a cache past the end', { command: Command.Cache, offset: past, length: 1 }, Errno.EINVAL],
    ['a status past the end', { command: Command.BlockStatus, offset: past, length: 1 }, Errno.EINVAL],
    ['a status of nothing', { command: Command.BlockStatus, length: 0 }, Errno.EINVAL],
    ['a flush of a range', { command: Command.Flush, length: 1 }, Errno.EINVAL],
    ['a flush of a place', { command: Command.Flush, offset: 1n }, Errno.EINVAL],
    ['a read of too much', { command: Command.Read, length: MAX_PAYLOAD_BYTES + 1 }, Errno.EINVAL],
    ['a read that wraps 64 bits', { command: Command.Read, offset: 2n ** 64n - 256n, length }, Errno.EINVAL],
    [
      'a write that wraps 64 bits',
      { command: Command.Write, offset: 2n ** 64n - 256n, payload },
      Errno.ENOSPC,
    ],
    [
      'zeroes that wrap 64 bits',
      { command: Command.WriteZeroes, offset: 2n ** 64n - 1n, length: 2 ** 32 - 1 },
      Errno.ENOSPC,
    ],
    [
      'a write of too much',
      { command: Command.Write, payload: new Uint8Array(MAX_PAYLOAD_BYTES + 1) },
      Errno.EINVAL,
    ],
  ];
  test.each(cases)('%s', async (_, request, errno) => {
    const device = new MemoryDevice(sizeBytes);
    const before = randomBytes(sizeBytes, 1);
    await device.write(0, before);
    await using wire = await Wire.connect(device, { structured });
    wire.send({ cookie: 0x1234_5678_9abc_def0n, ...request });
    const reply = await wire.reply();
    expect(reply).toMatchObject({ cookie: 0x1234_5678_9abc_def0n, errno, done: true });
    // Once agreed upon, also what fails at once is answered in the structured form.
    expect(reply.type).toBe(structured ? ChunkType.Error : undefined);
    await expectInStep(wire);
    const after = Buffer.alloc(sizeBytes);
    await device.read(0, after);
    expect(after.equals(before)).toBe(true);
  });

  const changes: [string, WireRequest][] = [
    ['write', { command: Command.Write, payload }],
    ['trim', { command: Command.Trim, length }],
    ['write zeroes', { command: Command.WriteZeroes, length }],
    // Being read-only comes before the place.
    ['write past the end', { command: Command.Write, offset: past, payload }],
  ];
  test.each(changes)('%s to what is read-only', async (_, request) => {
    const device = new ReadOnlyDevice('fixed', sizeBytes, 4096, new MemoryDevice(sizeBytes));
    await using wire = await Wire.connect(device, { structured });
    wire.send(request);
    expect(await wire.reply()).toMatchObject({ errno: Errno.EPERM });
    await expectInStep(wire);
  });
});

test('a status without a context is refused', async () => {
  await using wire = await Wire.connect(new MemoryDevice(sizeBytes), { contexts: [] });
  wire.send({ command: Command.BlockStatus, length: 1 });
  expect(await wire.reply()).toMatchObject({ errno: Errno.EINVAL });
});

test('an unfragmented read is refused without structured replies, and when it is too long', async () => {
  const request = { command: Command.Read, flags: CommandFlag.Df, length: 512 };
  await using simple = await Wire.connect(new MemoryDevice(sizeBytes), { structured: false });
  simple.send(request);
  expect(await simple.reply()).toMatchObject({ errno: Errno.EINVAL });
  await using structured = await Wire.connect(new MemoryDevice(sizeBytes));
  structured.send({ ...request, length: MAX_PAYLOAD_BYTES + 1 });
  expect(await structured.reply()).toMatchObject({ errno: Errno.EOVERFLOW });
});

test('fast zeroing is refused where zeroing is not fast, and done where it is', async () => {
  const request = { command: Command.WriteZeroes, flags: CommandFlag.FastZero, length: 4096 };
  await using fast = await Wire.connect(new MemoryDevice(sizeBytes));
  fast.send(request);
  expect(await fast.reply()).toMatchObject({ errno: 0 });
  const device = new MemoryDevice(sizeBytes);
  Object.defineProperty(device, 'capabilities', { value: { ...device.capabilities, fastZero: false } });
  await using slow = await Wire.connect(device);
  slow.send(request);
  expect(await slow.reply()).toMatchObject({ errno: Errno.ENOTSUP });
});

test('requests of no bytes succeed', async () => {
  await using wire = await Wire.connect(new MemoryDevice(sizeBytes));
  for (const command of [Command.Read, Command.Write, Command.Trim, Command.WriteZeroes, Command.Cache]) {
    wire.send({ command, offset: sizeBytes });
    expect(await wire.reply(), `command ${command}`).toMatchObject({
      errno: 0,
      done: true,
      type: ChunkType.None,
    });
  }
});

test('bytes that come one at a time make the same requests', async () => {
  const device = new MemoryDevice(sizeBytes);
  await using wire = await Wire.connect(device);
  const payload = randomBytes(100, 1);
  const bytes = Buffer.concat([
    encodeRequest({ command: Command.Write, cookie: 1n, offset: 1000, payload }),
    encodeRequest({ command: Command.Write, cookie: 2n, offset: sizeBytes, payload }),
  ]);
  wire.stream.setNoDelay(true);
  for (const byte of bytes) {
    wire.stream.write(Buffer.of(byte));
    await new Promise(setImmediate);
  }
  // Neither waits for the other.
  const replies = [await wire.reply(), await wire.reply()];
  expect(new Map(replies.map(({ cookie, errno }) => [cookie, errno]))).toEqual(
    new Map([
      [1n, 0],
      [2n, Errno.ENOSPC],
    ]),
  );
  wire.send({ command: Command.Read, offset: 1000, length: 100 });
  const { bytes: read } = await wire.readReply(1000, 100);
  expect(read.equals(payload)).toBe(true);
});

test('a read tells its holes, unless it must not be fragmented', async () => {
  const device = new MemoryDevice(sizeBytes);
  const data = randomBytes(64 * KiB, 1);
  await device.write(128 * KiB, data);
  const expected = Buffer.alloc(512 * KiB);
  expected.set(data, 128 * KiB);
  await using wire = await Wire.connect(device);
  wire.send({ command: Command.Read, length: 512 * KiB });
  const fragmented = await wire.readReply(0, 512 * KiB);
  expect(fragmented.bytes.equals(expected)).toBe(true);
  expect(fragmented.holes).toEqual([
    { offset: 0, length: 128 * KiB },
    { offset: 192 * KiB, length: 320 * KiB },
  ]);
  wire.send({ command: Command.Read, flags: CommandFlag.Df, length: 512 * KiB });
  const whole = await wire.readReply(0, 512 * KiB);
  expect(whole.bytes.equals(expected)).toBe(true);
  expect(whole).toMatchObject({ holes: [], chunks: 1 });
});

describe('block status', () => {
  const sparse = async (): Promise<MemoryDevice> => {
    const device = new MemoryDevice(sizeBytes);
    await device.write(256 * KiB, randomBytes(256 * KiB, 1));
    return device;
  };
  const extentsOf = (payload: Buffer): [number, number][] => {
    const extents: [number, number][] = [];
    for (let at = 4; at < payload.length; at += 8)
      extents.push([payload.readUInt32BE(at), payload.readUInt32BE(at + 4)]);
    return extents;
  };

  test('covers the range with data and holes', async () => {
    await using wire = await Wire.connect(await sparse());
    wire.send({ command: Command.BlockStatus, offset: 128 * KiB, length: 512 * KiB });
    const reply = await wire.reply();
    expect(reply).toMatchObject({ type: ChunkType.BlockStatus, done: true, errno: 0 });
    expect(reply.payload.readUInt32BE(0)).toBe(7);
    expect(extentsOf(reply.payload)).toEqual([
      [128 * KiB, 3],
      [256 * KiB, 0],
      [128 * KiB, 3],
    ]);
  });

  test('with REQ_ONE is one descriptor, no longer than the request', async () => {
    await using wire = await Wire.connect(await sparse());
    for (const [offset, length, expected] of [
      [128 * KiB, 512 * KiB, 128 * KiB],
      [0, 100, 100],
      [300 * KiB, 50, 50],
    ] as const) {
      wire.send({ command: Command.BlockStatus, flags: CommandFlag.ReqOne, offset, length });
      const { payload } = await wire.reply();
      expect(extentsOf(payload).map(([bytes]) => bytes)).toEqual([expected]);
    }
  });

  test('answers for every context that was selected', async () => {
    const device = await sparse();
    const dirty: MetaContext = {
      name: 'test:dirty',
      describe: (_, lengthBytes) => Promise.resolve([{ lengthBytes: lengthBytes * 2, flags: 5 }]),
    };
    const dull: MetaContext = {
      name: 'test:dull',
      describe: () => Promise.resolve([{ lengthBytes: 1, flags: 0 }]),
    };
    await using wire = await Wire.connect(device, { contexts: [dirty, dull] });
    wire.send({ command: Command.BlockStatus, cookie: 9n, offset: 0, length: 1000 });
    const first = await wire.reply();
    expect(first).toMatchObject({ cookie: 9n, done: false });
    expect(first.payload.readUInt32BE(0)).toBe(7);
    // More than was asked for is never told.
    expect(extentsOf(first.payload)).toEqual([[1000, 5]]);
    const second = await wire.reply();
    expect(second).toMatchObject({ cookie: 9n, done: true });
    expect(second.payload.readUInt32BE(0)).toBe(8);
    expect(extentsOf(second.payload)).toEqual([[1, 0]]);
  });
});

describe('durability', () => {
  /** Notes what reaches the device, in order. */
  class Noting extends MemoryDevice {
    readonly log: string[] = [];
    override async write(offset: number, bytes: Uint8Array, options?: { fua?: boolean }): Promise<void> {
      await super.write(offset, bytes, options);
      this.log.push(options?.fua ? 'write fua' : 'write');
    }
    override async flush(): Promise<void> {
      await super.flush();
      this.log.push('flush');
    }
    override async trim(offset: number, length: number): Promise<void> {
      await super.trim(offset, length);
      this.log.push('trim');
    }
    override async writeZeroes(
      offset: number,
      length: number,
      options?: { fua?: boolean; mayTrim?: boolean },
    ): Promise<void> {
      await super.writeZeroes(offset, length, options);
      this.log.push(`zeroes${options?.fua ? ' fua' : ''}${options?.mayTrim ? '' : ' no hole'}`);
    }
  }
  const payload = new Uint8Array(512).fill(1);
  test.each<[string, WireRequest, string[]]>([
    ['a write', { command: Command.Write, payload }, ['write']],
    ['a write with FUA', { command: Command.Write, flags: CommandFlag.Fua, payload }, ['write fua']],
    ['a flush', { command: Command.Flush }, ['flush']],
    ['a trim with FUA', { command: Command.Trim, flags: CommandFlag.Fua, length: 512 }, ['trim', 'flush']],
    ['zeroes', { command: Command.WriteZeroes, length: 512 }, ['zeroes']],
    [
      'zeroes with FUA and without a hole',
      { command: Command.WriteZeroes, flags: CommandFlag.Fua | CommandFlag.NoHole, length: 512 },
      ['zeroes fua no hole'],
    ],
    ['a read with FUA', { command: Command.Read, flags: CommandFlag.Fua, length: 512 }, []],
  ])('%s', async (_, request, log) => {
    const device = new Noting(sizeBytes);
    await using wire = await Wire.connect(device);
    wire.send(request);
    expect(await wire.reply()).toMatchObject({ errno: 0 });
    expect(device.log).toEqual(log);
  });
});

describe('failures of the device', () => {
  test('a read that fails takes no other with it', async () => {
    const device = new FaultyDevice(new MemoryDevice(sizeBytes), { clock: realClock });
    device.inject({ operation: 'read', range: { offsetBytes: 4096, lengthBytes: 4096 } });
    await using wire = await Wire.connect(device);
    wire.send(
      { command: Command.Read, cookie: 1n, length: 4096 },
      { command: Command.Read, cookie: 2n, offset: 4096, length: 4096 },
      { command: Command.Read, cookie: 3n, offset: 8192, length: 4096 },
    );
    const errnos = new Map<bigint, number>();
    for (let i = 0; i < 3; i++) {
      const { cookie, errno } = await wire.reply();
      errnos.set(cookie, errno);
    }
    expect(errnos).toEqual(
      new Map([
        [1n, 0],
        [2n, Errno.EIO],
        [3n, 0],
      ]),
    );
  });

  test('of writes in one packet only those fail that did', async () => {
    /** Takes batches, but none that touches its bad sector; it forgets such a batch half-way. */
    class Batching extends MemoryDevice {
      readonly writeBatch = async (batches: readonly Batch[]): Promise<void> => {
        for (const { bytes, places } of batches) {
          for (let i = 0; i < places.length; i += 3) {
            const [offset = 0, at = 0, length = 0] = places.subarray(i, i + 3);
            await this.write(offset, bytes.subarray(at, at + length));
          }
        }
      };
      override async write(offset: number, bytes: Uint8Array): Promise<void> {
        if (offset === 4096) throw new Error('bad sector');
        await super.write(offset, bytes);
      }
    }
    const device = new Batching(sizeBytes);
    await using wire = await Wire.connect(device);
    const offsets = [0, 4096, 8192, 12_288];
    wire.send(
      ...offsets.map((offset, i) => ({
        command: Command.Write,
        cookie: BigInt(i),
        offset,
        payload: new Uint8Array(512).fill(i + 1),
      })),
    );
    const errnos = new Map<bigint, number>();
    for (let i = 0; i < offsets.length; i++) {
      const { cookie, errno } = await wire.reply();
      errnos.set(cookie, errno);
    }
    expect([0n, 1n, 2n, 3n].map((cookie) => errnos.get(cookie))).toEqual([0, Errno.EIO, 0, 0]);
    const read = new Uint8Array(1);
    await device.read(12_288, read);
    expect(read[0]).toBe(4);
  });

  test('who loses its power says nothing more', async () => {
    const server = new StorageServer({ id: 'a', device: new GatedDevice(sizeBytes) });
    const ticket = { epoch: 1, coordinator: 'test' };
    const { source } = await server.cut({
      ...ticket,
      leaseMs: 60_000,
      fixedBy: 'snapshot',
      blockSizeBytes: 4096,
    });
    await using wire = await Wire.connect(server.client);
    wire.send({ command: Command.Write, payload: new Uint8Array(512) });
    await expectInStep(wire);
    const seenBytes = wire.stream.bytesRead;
    await server.powerCut({ seed: 1 });
    await wire.closed();
    await wire.ended;
    expect(wire.stream.bytesRead).toBe(seenBytes);
    await source.close();
  });

  test('what was sent before a power cut is not sent again after it', async () => {
    /** Loses its power during a batch, and has it again at once. */
    class PowerLosing extends MemoryDevice {
      writes = 0;
      readonly writeBatch = (): Promise<void> => Promise.reject(new CofferdamError('POWER_CUT', 'no power'));
      override async write(offset: number, bytes: Uint8Array): Promise<void> {
        this.writes++;
        await super.write(offset, bytes);
      }
    }
    const device = new PowerLosing(sizeBytes);
    await using wire = await Wire.connect(device);
    const small = { command: Command.Write, payload: new Uint8Array(512) };
    wire.send(small, small, small, { command: Command.Write, payload: new Uint8Array(200_000) });
    await wire.closed();
    await wire.ended;
    expect(device.writes).toBe(0);
  });

  test('what fails while the power goes out is not sent again when it is back', async () => {
    /** Has a batch under way until the test lets it fail. */
    class Failing extends MemoryDevice {
      writes = 0;
      fail: ((error: unknown) => void) | undefined;
      readonly writeBatch = (): Promise<void> => new Promise((_, reject) => (this.fail = reject));
      override async write(offset: number, bytes: Uint8Array): Promise<void> {
        this.writes++;
        await super.write(offset, bytes);
      }
    }
    const device = new Failing(sizeBytes);
    await using server = new StorageServer({ id: 'a', device });
    await using wire = await Wire.connect(server.client);
    const small = { command: Command.Write, payload: new Uint8Array(512) };
    wire.send(small, small);
    await expect.poll(() => device.fail).toBeDefined();
    const powerIsBack = server.powerCut({ seed: 1 });
    device.fail?.(new CofferdamError('DEVICE_FULL', 'no space'));
    await powerIsBack;
    await wire.closed();
    await wire.ended;
    expect(device.writes).toBe(0);
  });

  test('what waited for memory when the power went out is not begun when it is back', async () => {
    const device = new GatedDevice(64 * MiB);
    await using server = new StorageServer({ id: 'a', device });
    const { source } = await server.cut({
      epoch: 1,
      coordinator: 'test',
      leaseMs: 60_000,
      fixedBy: 'snapshot',
      blockSizeBytes: 64 * KiB,
    });
    await using wire = await Wire.connect(server.client);
    const payload = new Uint8Array(MiB);
    const large = Array.from({ length: 32 }, () => ({ command: Command.Write, payload }));
    const small = Array.from({ length: 40 }, () => ({
      command: Command.Write,
      payload: payload.subarray(0, 512),
    }));
    // The last packet has the end of what the memory is full with, and what waits.
    wire.send(...large, ...small);
    await expect.poll(async () => (await server.status()).parked).toBe(32);
    await server.powerCut({ seed: 1 });
    await wire.ended;
    expect(device.log.filter((line) => line.startsWith('write'))).toEqual([]);
    await source.close();
  });

  test('paths and peers are not told', async () => {
    const device = new FaultyDevice(new MemoryDevice(sizeBytes), { clock: realClock });
    device.inject({ operation: 'read', fault: { error: 'DEVICE_IO' } });
    await using wire = await Wire.connect(device);
    wire.send({ command: Command.Read, length: 512 });
    const { payload } = await wire.reply();
    expect(payload.subarray(6).toString()).toBe('DEVICE_IO: the operating system reported an I/O error');
  });
});

test('a parked write parks only itself', async () => {
  const device = new MemoryDevice(sizeBytes);
  const server = new StorageServer({ id: 'a', device });
  const ticket = { epoch: 1, coordinator: 'test' };
  const { source } = await server.cut({
    ...ticket,
    leaseMs: 60_000,
    fixedBy: 'snapshot',
    blockSizeBytes: 4096,
  });
  await using wire = await Wire.connect(server.client);
  wire.send(
    { command: Command.Write, cookie: 1n, payload: new Uint8Array(512).fill(1) },
    { command: Command.Write, cookie: 2n, offset: 512, payload: new Uint8Array(512).fill(2) },
    { command: Command.Flush, cookie: 3n },
    { command: Command.BlockStatus, cookie: 4n, length: 512 },
  );
  const answered = [await wire.reply(), await wire.reply()].map(({ cookie }) => cookie);
  expect(new Set(answered)).toEqual(new Set([3n, 4n]));
  for (let i = 0; i < 100; i++) await expectInStep(wire);
  expect(await server.status()).toMatchObject({ parked: 2 });
  await server.release(ticket);
  const released = [await wire.reply(), await wire.reply()].map(({ cookie }) => cookie);
  expect(new Set(released)).toEqual(new Set([1n, 2n]));
  await source.close();
});

test('a client that does not read its replies takes bounded memory', async () => {
  /** Counts the bytes of reads that were begun. */
  class Counting extends MemoryDevice {
    begunBytes = 0;
    override async read(offset: number, into: Uint8Array): Promise<void> {
      this.begunBytes += into.length;
      await super.read(offset, into);
    }
  }
  const device = new Counting(sizeBytes);
  await using wire = await Wire.connect(device);
  const wanted = 400;
  for (let i = 0; i < wanted; i++)
    wire.send({ command: Command.Read, cookie: BigInt(i), flags: CommandFlag.Df, length: MiB });
  await standstill(() => device.begunBytes);
  expect(device.begunBytes).toBeLessThan(80 * MiB);
  // It is only slow: in the end it gets everything.
  for (let i = 0; i < wanted; i++) expect((await wire.reply()).errno).toBe(0);
  expect(device.begunBytes).toBe(wanted * MiB);
});

test('replies to refused requests take bounded memory too', async () => {
  await using wire = await Wire.connect(new MemoryDevice(sizeBytes));
  const request = encodeRequest({ command: 99 });
  const many = Buffer.concat(Array.from({ length: 10_000 }, () => request));
  let sentBytes = 0;
  // Without a bound the server would take all of it.
  while (sentBytes < 200 * MiB) {
    const isTaken = wire.stream.write(many);
    sentBytes += many.length;
    if (isTaken) continue;
    const drained = once(wire.stream, 'drain').then(() => true);
    if (!(await Promise.race([drained, new Promise((resolve) => setTimeout(resolve, 500, false))]))) break;
  }
  expect(sentBytes).toBeLessThan(200 * MiB);
});

test('reading ahead takes bounded memory', async () => {
  /** Is never done with reading, and counts the bytes that are to be read at once. */
  class Stuck extends MemoryDevice {
    busyBytes = 0;
    override read(_offset: number, into: Uint8Array): Promise<void> {
      this.busyBytes += into.length;
      return this.#freed;
    }
    free = (): void => {};
    readonly #freed = new Promise<void>((resolve) => (this.free = resolve));
  }
  const device = new Stuck(sizeBytes);
  await using wire = await Wire.connect(device);
  const wanted = 100;
  for (let i = 0; i < wanted; i++) wire.send({ command: Command.Cache, length: MiB });
  await standstill(() => device.busyBytes);
  expect(device.busyBytes).toBeLessThan(40 * MiB);
  device.free();
  for (let i = 0; i < wanted; i++) expect((await wire.reply()).errno).toBe(0);
});

test('a client that does not read the status of blocks takes bounded memory', async () => {
  const extents = Array.from({ length: 70_000 }, (_, i) => ({ lengthBytes: 1, flags: i % 2 }));
  let described = 0;
  const describe = async (): Promise<typeof extents> => {
    described++;
    return extents;
  };
  await using wire = await Wire.connect(new MemoryDevice(sizeBytes), {
    contexts: [{ name: 'test:fragments', describe }],
  });
  const wanted = 200;
  for (let i = 0; i < wanted; i++) wire.send({ command: Command.BlockStatus, length: sizeBytes });
  await standstill(() => described);
  // Each reply is of half a megabyte.
  expect(described).toBeLessThan(80);
  for (let i = 0; i < wanted; i++) expect((await wire.reply()).payload.length).toBe(4 + 8 * 65_536);
  expect(described).toBe(wanted);
});

test('a client that vanishes with a hundred replies queued leaves nothing behind', async () => {
  const device = new GatedDevice(sizeBytes);
  device.shut();
  await using wire = await Wire.connect(device);
  for (let i = 0; i < 100; i++) {
    wire.send({ command: Command.Read, flags: CommandFlag.Df, length: MiB / 2 });
    wire.send({ command: Command.Write, payload: new Uint8Array(512) });
  }
  await expect.poll(() => device.log.filter((line) => line.startsWith('write')).length).toBeGreaterThan(10);
  wire.stream.destroy();
  await new Promise((resolve) => setTimeout(resolve, 50));
  // The device is still busy with writes of the client that is gone.
  expect(wire.isEnded).toBe(false);
  device.open();
  await wire.ended;
});

test('after a disconnect the writes in flight are finished, and then the connection ends', async () => {
  const device = new GatedDevice(sizeBytes);
  device.shut();
  await using wire = await Wire.connect(device);
  wire.send(
    { command: Command.Write, cookie: 1n, payload: new Uint8Array(512).fill(9) },
    { command: Command.Disconnect },
    { command: Command.Write, cookie: 2n, offset: 512, payload: new Uint8Array(512).fill(9) },
  );
  await expect.poll(() => device.log).toContain('write 0+512');
  device.open();
  expect(await wire.reply()).toMatchObject({ cookie: 1n, errno: 0 });
  await wire.closed();
  await wire.ended;
  expect(device.log).toEqual(['write 0+512']);
});

test('a client that sends no more gets its replies', async () => {
  await using wire = await Wire.connect(new MemoryDevice(sizeBytes));
  wire.send({ command: Command.Read, cookie: 1n, length: 512 });
  wire.stream.end();
  expect(await wire.reply()).toMatchObject({ cookie: 1n });
  await wire.ended;
});

test('a client that sends no more gets its replies, however slowly it reads them', async () => {
  await using wire = await Wire.connect(new MemoryDevice(sizeBytes));
  const wanted = 16;
  for (let i = 0; i < wanted; i++)
    wire.send({ command: Command.Read, flags: CommandFlag.Df, length: sizeBytes });
  wire.stream.end();
  // Longer than the time in which it has to close the connection once it has them all.
  await new Promise((resolve) => setTimeout(resolve, 3000));
  for (let i = 0; i < wanted; i++) expect((await wire.reply()).errno).toBe(0);
  await wire.closed();
});

test('draining finishes what was begun', async () => {
  const device = new GatedDevice(sizeBytes);
  device.shut();
  await using wire = await Wire.connect(device);
  wire.send({ command: Command.Write, cookie: 1n, payload: new Uint8Array(512) });
  await expect.poll(() => device.log).toContain('write 0+512');
  wire.transmission.drain();
  wire.send({ command: Command.Read, cookie: 2n, length: 512 });
  device.open();
  expect(await wire.reply()).toMatchObject({ cookie: 1n, errno: 0 });
  await wire.closed();
  await wire.ended;
});

test('what is no request ends the connection', async () => {
  await using wire = await Wire.connect(new MemoryDevice(sizeBytes));
  wire.send({ command: Command.Read, length: 512, magic: 0x12345678 });
  await wire.closed();
  await wire.ended;
  expect(wire.isEnded).toBe(true);
});

/** Kinds of devices, each with another way through batches. */
const kinds: [string, (directory: { file(name: string): string }) => Promise<BlockDevice>][] = [
  ['memory', () => Promise.resolve(new MemoryDevice(sizeBytes))],
  ['a file', (directory) => FileDevice.open(directory.file('image'), { create: { sizeBytes } })],
  [
    'a server on a file',
    async (directory) => {
      const device = await FileDevice.open(directory.file('image'), { create: { sizeBytes } });
      return new StorageServer({ id: 'a', device }).client;
    },
  ],
];

test.each(kinds)(
  'pipelined requests on %s do what they do to plain bytes, however they are cut',
  async (_, open) => {
    const seed = testSeed();
    const random = new Random(seed);
    await using directory = temporaryDirectory();
    await using device = await open(directory);
    await using wire = await Wire.connect(device);
    const model = Buffer.alloc(sizeBytes);
    for (let round = 0; round < 40; round++) {
      // Requests of one round are in flight together, so they do not touch each other.
      const slots = 32;
      const requests: WireRequest[] = [];
      const expected = new Map<bigint, Buffer>();
      for (let slot = 0; slot < slots; slot++) {
        const base = (slot * sizeBytes) / slots;
        const length = 1 + random.below(sizeBytes / slots);
        const offset = base + random.below(sizeBytes / slots - length + 1);
        const cookie = BigInt(slot);
        const kind = random.below(4);
        if (kind === 0) {
          const payload = randomBytes(length, random.below(2 ** 31));
          model.set(payload, offset);
          requests.push({ command: Command.Write, cookie, offset, payload, flags: random.below(2) });
        } else if (kind === 1) {
          model.fill(0, offset, offset + length);
          requests.push({ command: Command.WriteZeroes, cookie, offset, length });
        } else {
          expected.set(cookie, Buffer.from(model.subarray(offset, offset + length)));
          requests.push({ command: Command.Read, cookie, offset, length, flags: CommandFlag.Df });
        }
      }
      const bytes = Buffer.concat(requests.map(encodeRequest));
      for (let at = 0; at < bytes.length;) {
        const end = at + 1 + random.below(random.below(2) === 0 ? 40 : 200_000);
        wire.stream.write(bytes.subarray(at, end));
        if (random.below(4) === 0) await new Promise(setImmediate);
        at = end;
      }
      for (let i = 0; i < slots; i++) {
        const { cookie, errno, payload } = await wire.reply();
        expect(errno).toBe(0);
        const wanted = expected.get(cookie);
        if (wanted) expect(payload.subarray(8).equals(wanted), `read ${cookie} of round ${round}`).toBe(true);
      }
    }
  },
);
