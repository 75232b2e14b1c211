import { expect, test } from 'vitest';
import { NbdDevice } from 'cofferdam';
import { isCofferdamError } from '#src/runtime/errors';
import { Random } from '#src/runtime/random';
import { serveCluster, type ServedCluster } from '../service/cluster.js';
import { runFio } from '../support/fio.js';
import { needs } from '../support/needs.js';
import { testSeed } from '../support/seed.js';

const SECTORS = 256;
const SECTOR_BYTES = 512;

function serveVolatile(): Promise<ServedCluster> {
  const server = (id: string) =>
    ({ id, device: { kind: 'memory', size: '2MiB' }, volatileCache: true }) as const;
  return serveCluster({
    servers: [server('a'), server('b')],
    volumes: [{ id: 'v', kind: 'striped', stripe: 4096, of: ['a', 'b'] }],
  });
}

/** What a client knows of each sector: the version it last flushed, and the last it sent. */
class Knowledge {
  readonly flushed = new Uint32Array(SECTORS);
  readonly answered = new Uint32Array(SECTORS);
  readonly sent = new Uint32Array(SECTORS);

  /** After a power cut a sector holds a version between what was flushed and what was sent; then that is the truth. */
  adopt(found: Uint32Array): void {
    for (let sector = 0; sector < SECTORS; sector++) {
      const version = found[sector] ?? 0;
      expect(version, `sector ${sector}`).toBeGreaterThanOrEqual(this.flushed[sector] ?? 0);
      expect(version, `sector ${sector}`).toBeLessThanOrEqual(this.sent[sector] ?? 0);
      this.flushed[sector] = version;
      this.answered[sector] = version;
    }
  }
}

/** The versions on the device; every sector must be whole. */
async function versionsOn(device: NbdDevice): Promise<Uint32Array> {
  const bytes = Buffer.alloc(SECTORS * SECTOR_BYTES);
  await device.read(0, bytes);
  return Uint32Array.from({ length: SECTORS }, (_, sector) => {
    const at = sector * SECTOR_BYTES;
    const version = bytes.readUInt32LE(at);
    for (let i = 0; i < SECTOR_BYTES; i += 4)
      expect(bytes.readUInt32LE(at + i), `sector ${sector} is torn`).toBe(version);
    return version;
  });
}

async function writeVersion(device: NbdDevice, sector: number, version: number, fua = false): Promise<void> {
  const bytes = Buffer.alloc(SECTOR_BYTES);
  for (let i = 0; i < SECTOR_BYTES; i += 4) bytes.writeUInt32LE(version, i);
  await device.write(sector * SECTOR_BYTES, bytes, { fua });
}

async function writeEverywhere(device: NbdDevice, version: number): Promise<void> {
  await Promise.all(Array.from({ length: SECTORS }, (_, sector) => writeVersion(device, sector, version)));
}

/** Writes and flushes until the connection breaks. */
async function writeUntilCut(device: NbdDevice, known: Knowledge, random: Random): Promise<void> {
  const writer = async (lane: number): Promise<void> => {
    for (;;) {
      // Every lane has sectors of its own, so at most one write of each is under way.
      const sector = lane + 8 * random.below(SECTORS / 8);
      const version = (known.sent[sector] ?? 0) + 1;
      known.sent[sector] = version;
      const fua = random.below(16) === 0;
      await writeVersion(device, sector, version, fua);
      known.answered[sector] = version;
      if (fua) known.flushed[sector] = version;
      if (random.below(20) === 0) {
        const before = known.answered.slice();
        await device.flush();
        before.forEach((answered, i) => (known.flushed[i] = Math.max(known.flushed[i] ?? 0, answered)));
      }
    }
  };
  const ends = await Promise.allSettled(Array.from({ length: 8 }, (_, lane) => writer(lane)));
  for (const end of ends) {
    const isDisconnect =
      end.status === 'rejected' &&
      (isCofferdamError(end.reason, 'CONNECTION_LOST') || isCofferdamError(end.reason, 'CONNECTION_FAILED'));
    expect(isDisconnect, end.status === 'rejected' ? String(end.reason) : 'it ended').toBe(true);
  }
}

test('a power cut takes nothing that was flushed, and clients that come back never see what was not written', async () => {
  const seed = testSeed();
  const random = new Random(seed);
  await using served = await serveVolatile();
  const known = new Knowledge();
  let lost = 0;
  for (let round = 0; round < 20; round++) {
    await using device = await NbdDevice.open(served.service.uriOf('v'), { reconnectMs: 0 });
    const found = await versionsOn(device);
    lost += known.answered.reduce((sum, answered, i) => sum + (answered > (found[i] ?? 0) ? 1 : 0), 0);
    known.adopt(found);
    const writing = writeUntilCut(device, known, random);
    await new Promise((resolve) => setTimeout(resolve, 20 + random.below(40)));
    await served.service.powerCut(['a', 'b'], { seed: random.uint32() });
    await writing;
  }
  // Else the cache would not have been volatile, and the test would show nothing.
  expect(lost).toBeGreaterThan(0);
  console.log(
    `${known.sent.reduce((sum, sent) => sum + sent, 0)} writes, ${lost} of them answered and lost unflushed`,
  );
});

test.each(['a', 'v'])('a flush on one connection to %s covers what was answered on another', async (name) => {
  const random = new Random(testSeed());
  await using served = await serveVolatile();
  const uri = served.service.uriOf(name);
  const open = (): Promise<NbdDevice> => NbdDevice.open(uri, { connections: 1, reconnectMs: 0 });
  let lost = 0;
  for (let round = 1; round <= 8; round++) {
    const flushed = 2 * round;
    {
      await using writer = await open();
      await using flusher = await open();
      expect([writer, flusher].every(({ capabilities }) => capabilities.multiConnection)).toBe(true);
      await writeEverywhere(writer, flushed);
      // A connection may have something of its own to flush, or nothing.
      if (round % 2 === 0) await flusher.write(SECTORS * SECTOR_BYTES, new Uint8Array(SECTOR_BYTES));
      await flusher.flush();
      await writeEverywhere(writer, flushed + 1);
      await served.service.powerCut(['a', 'b'], { seed: random.uint32() });
    }
    await using device = await open();
    const found = await versionsOn(device);
    found.forEach((version, sector) => expect(version, `sector ${sector}`).toBeGreaterThanOrEqual(flushed));
    lost += found.filter((version) => version === flushed).length;
  }
  // Else nothing was lost for want of a flush, and the test would show nothing.
  expect(lost).toBeGreaterThan(0);
});

needs('fio')('fio is told of a power cut, and what it writes afterwards is right', async () => {
  await using served = await serveVolatile();
  const uri = served.service.uriOf('v');
  const job = { rw: 'randwrite', bs: '4k', iodepth: 16, size: '4m', verify: 'crc32c', verify_fatal: 1 };
  const interrupted = runFio(uri, { ...job, time_based: 1, runtime: 20 }).then(
    () => 'it noticed nothing',
    (error: unknown) => String(error),
  );
  // However long it takes to start, it has written something by then.
  const { client } = served.service.cluster.server('a');
  const bytes = Buffer.alloc(client.sizeBytes);
  const hasWritten = async (): Promise<boolean> => {
    await client.read(0, bytes);
    return bytes.some((byte) => byte !== 0);
  };
  await expect.poll(hasWritten).toBe(true);
  await served.service.powerCut(['a', 'b'], { seed: 3 });
  expect(await interrupted).toContain('fio failed');
  await runFio(uri, { ...job, do_verify: 1, fsync: 32 });
});
