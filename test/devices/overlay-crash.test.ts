import { describe, expect, test } from 'vitest';
import type { BlockDevice } from '#src/devices/block-device';
import { MemoryDevice } from '#src/devices/memory';
import { OverlayDevice } from '#src/devices/overlay';
import { newLayout } from '#src/devices/overlay-header';
import { messageOf } from '#src/runtime/errors';
import { Random } from '#src/runtime/random';
import { KiB, SECTOR_BYTES } from '#src/runtime/sizes';
import { randomBytes, readBytes } from '../support/bytes.js';
import { testSeed } from '../support/seed.js';
import { sendRequest, type ModelRequest } from './model.js';
import { RecordedFile, type Operation } from './recorded-file.js';
import { SectorHistory } from './sector-history.js';

const SIZE = 5 * 4 * KiB + 1300;
const content = randomBytes(SIZE, 99);

async function newBase(): Promise<BlockDevice> {
  const base = new MemoryDevice(SIZE);
  await base.write(0, content);
  return base;
}

/** Power is cut so often at each place; `CRASHES=100` looks longer. */
const CRASHES = Number(process.env['CRASHES'] ?? 3);

/**
 * Sends requests to an overlay, several at a time, and cuts the power whenever something begins or ends on its file.
 *
 * @returns what was found wrong after the cuts.
 */
async function tell(seed: number, File: typeof RecordedFile = RecordedFile): Promise<string[]> {
  const random = new Random(seed);
  const history = new SectorHistory(content);
  const checks: Promise<string | undefined>[] = [];
  const cut = (): void => {
    for (let i = 0; i < CRASHES; i++) {
      const place = `after ${checks.length} cuts, seed ${seed}`;
      checks.push(judge(file.afterPowerCut(random.fork()), history.copy(), place));
    }
  };
  const file = new File(new Uint8Array(newLayout(SIZE).fileBytes), random.fork(), cut);
  const device = await OverlayDevice.on(file, { base: await newBase(), baseName: 'random bytes' });
  for (let step = 0; step < 25; step++) await sendBatch(device, history, random);
  // Without a power cut nothing is wrong, whatever the file is like.
  history.durable(history.mark(), history.allSectors());
  expect(history.wrongSectors(await readBytes(device))).toEqual([]);
  return (await Promise.all(checks)).filter((failure) => failure !== undefined);
}

async function judge(left: Uint8Array, history: SectorHistory, place: string): Promise<string | undefined> {
  try {
    const device = await OverlayDevice.on(new RecordedFile(left, new Random(0)), {
      base: await newBase(),
      baseName: 'random bytes',
    });
    const wrong = history.wrongSectors(await readBytes(device));
    return wrong.length === 0 ? undefined : `${place}: sectors ${wrong.join(', ')} are wrong`;
  } catch (error) {
    return `${place}: ${messageOf(error)}`;
  }
}

/** Changes at the same time as each other, and perhaps as a flush, which is for those before. */
async function sendBatch(device: BlockDevice, history: SectorHistory, random: Random): Promise<void> {
  const before = history.mark();
  const requests = changes(random);
  for (const request of requests) history.sent(request);
  const sent = history.mark();
  const answers = requests.map(async (request) => {
    await sendRequest(device, request);
    if ('fua' in request && request.fua) history.durable(sent, history.sectorsOf(request));
  });
  if (random.chance(0.5)) {
    answers.push(device.flush().then(() => history.durable(before, history.allSectors())));
  }
  await Promise.all(answers);
}

/** One change anywhere, or several that share no sector but may share blocks. */
function changes(random: Random): ModelRequest[] {
  if (random.chance(0.3)) {
    const offsetBytes = random.below(SIZE);
    return [change(random, offsetBytes, 1 + random.below(Math.min(SIZE - offsetBytes, 9 * KiB)))];
  }
  const requests: ModelRequest[] = [];
  let at = random.below(8) * SECTOR_BYTES;
  while (at < SIZE && requests.length < 4) {
    const lengthBytes = Math.min(SIZE - at, (1 + random.below(16)) * SECTOR_BYTES);
    requests.push(change(random, at, lengthBytes));
    at += lengthBytes + random.below(8) * SECTOR_BYTES;
  }
  return requests;
}

function change(random: Random, offsetBytes: number, lengthBytes: number): ModelRequest {
  const range = { offsetBytes, lengthBytes };
  const fua = random.chance(0.1);
  if (random.chance(0.6)) return { ...range, kind: 'write', fua, seed: random.uint32() };
  if (random.chance(0.3)) return { ...range, kind: 'trim' };
  return { ...range, kind: 'zeroes', fua, mayTrim: random.chance(0.8) };
}

test('a power cut at any moment leaves what was flushed, and of the rest each sector old or new', async () => {
  const seed = testSeed();
  for (let story = 0; story < 4; story++) expect(await tell(seed + story)).toEqual([]);
}, 60_000);

/*
 * The cuts are worth something only if they find overlays that are wrong. Each file below turns the right one into a wrong
 * one, in a way that nothing but a power cut brings to light.
 */
describe('power cuts find', () => {
  const MAP_BYTES = 4 * KiB;
  const isMap = ({ offsetBytes, bytes }: Operation): boolean =>
    bytes !== undefined && offsetBytes >= MAP_BYTES && offsetBytes < 2 * MAP_BYTES;

  async function expectFailure(File: typeof RecordedFile, expected: RegExp): Promise<void> {
    for (let seed = 1; seed <= 5; seed++) {
      // The seeds are fixed, so that luck has no part in it.
      if ((await tell(seed, File)).some((failure) => expected.test(failure))) return;
    }
    expect.fail('five stories with power cuts and nothing was found');
  }

  test('a map that is written before the blocks it leads to are durable', async () => {
    /** Syncs only what it has of the map. */
    class MapFirst extends RecordedFile {
      protected override record(operation: Operation): Promise<void> {
        return super.record({ ...operation, covers: operation.covers.filter(isMap) });
      }
    }
    await expectFailure(MapFirst, /sectors .* are wrong/);
  });

  test('a flush that is answered before the map is durable', async () => {
    /** Syncs everything but what it has of the map. */
    class MapNever extends RecordedFile {
      protected override record(operation: Operation): Promise<void> {
        return super.record({ ...operation, covers: operation.covers.filter((one) => !isMap(one)) });
      }
    }
    await expectFailure(MapNever, /sectors .* are wrong/);
  });

  test('a map whose sectors are torn', async () => {
    class Torn extends RecordedFile {
      protected override async record(operation: Operation): Promise<void> {
        const { offsetBytes, bytes } = operation;
        if (!bytes || !isMap(operation)) return await super.record(operation);
        await super.record({ ...operation, bytes: bytes.subarray(0, 100) });
        await super.record({ ...operation, bytes: bytes.subarray(100), offsetBytes: offsetBytes + 100 });
      }
    }
    await expectFailure(Torn, /its map is damaged/);
  });
});
