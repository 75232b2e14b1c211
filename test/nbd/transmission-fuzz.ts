import { expect } from 'vitest';
import {
  ChunkFlag,
  ChunkType,
  Command,
  CommandFlag,
  Errno,
  Length,
  MAX_PAYLOAD_BYTES,
  REQUEST_MAGIC,
  SIMPLE_REPLY_MAGIC,
} from '#src/nbd/protocol';
import { Random } from '#src/runtime/random';
import { KiB } from '#src/runtime/sizes';
import { testSeed } from '../support/seed.js';
import { encodeRequest, type WireRequest } from './wire.js';

export const sizeBytes = 64 * KiB;

/** A connection in transmission to a device of {@link sizeBytes}, from the client's side. */
export interface FuzzedConnection extends AsyncDisposable {
  /** Lets bytes arrive, as one packet where that can be had. */
  feed(bytes: Uint8Array): void;
  /** Lets the client send no more. */
  feedEnd(): void;
  /** Resolves when the server is done with the connection. */
  readonly ended: Promise<void>;
  /** All that was answered, once it has ended. */
  readonly answers: Buffer;
}

export type Connect = (structured: boolean) => Promise<FuzzedConnection>;

const interesting = [0, 1, 511, 512, 4096, sizeBytes - 1, sizeBytes, sizeBytes + 1, 2 ** 31, 2 ** 32 - 1];
const commands = [...Object.values(Command), 8, 99, 65_535];
const flagSets = [0, 0, 0, ...Object.values(CommandFlag), 1 << 5, 1 << 15, 0xffff];

function randomRequest(random: Random, cookie: bigint): WireRequest {
  const command = random.below(3) === 0 ? random.pick(commands) : random.pick([0, 0, 1, 1, 3, 4, 6, 7]);
  if (command === Command.Disconnect && random.below(4) !== 0) return { command: Command.Flush, cookie };
  const flags = random.pick(flagSets);
  const isOdd = random.below(4) === 0;
  let offset = BigInt(isOdd ? random.pick(interesting) : random.below(sizeBytes));
  if (random.below(40) === 0) offset = 2n ** 64n - BigInt(1 + random.below(1000));
  if (command === Command.Write) {
    // The payload is really there, so it is short.
    return {
      command,
      flags,
      cookie,
      offset,
      payload: new Uint8Array(random.below(700)).fill(random.below(256)),
    };
  }
  const length = isOdd ? random.pick(interesting) : random.below(4096);
  return { command, flags, cookie, offset, length };
}

/** A stream of requests, and now and then something broken in it. */
function randomStream(random: Random): Buffer {
  const requests: Buffer[] = [];
  for (let i = random.below(60); i >= 0; i--) requests.push(encodeRequest(randomRequest(random, BigInt(i))));
  let bytes = Buffer.concat(requests);
  if (random.below(3) === 0) {
    for (let i = random.below(4); i >= 0 && bytes.length > 0; i--) {
      const at = random.below(bytes.length);
      const kind = random.below(3);
      if (kind === 0) bytes[at] = random.below(256);
      else if (kind === 1) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1)]);
      else bytes = bytes.subarray(0, at);
    }
  }
  return bytes;
}

/** Connections after which a process has the heap, the threads and the arenas that it needs. */
const WARM_UP = 3000;

interface Expected {
  cookie: bigint;
  errno: number;
  /** Length of the read that it answers; undefined for other requests. */
  read: number | undefined;
}

/** What a plain reading of the protocol says must be answered, and whether the connection is dropped. */
function model(bytes: Buffer, structured: boolean): { expected: Expected[]; dropped: boolean } {
  const expected: Expected[] = [];
  for (let at = 0; bytes.length - at >= Length.RequestHeader;) {
    if (bytes.readUInt32BE(at) !== REQUEST_MAGIC) return { expected, dropped: true };
    const flags = bytes.readUInt16BE(at + 4);
    const command = bytes.readUInt16BE(at + 6);
    const cookie = bytes.readBigUInt64BE(at + 8);
    const offset = bytes.readBigUInt64BE(at + 16);
    const length = bytes.readUInt32BE(at + 24);
    at += Length.RequestHeader;
    if (command === Command.Disconnect) return { expected, dropped: false };
    if (command === Command.Write) {
      if (bytes.length - at < length) return { expected, dropped: false };
      at += length;
    }
    const errno = modelErrno(command, flags, offset, length, structured);
    expected.push({ cookie, errno, read: command === Command.Read ? length : undefined });
  }
  return { expected, dropped: false };
}

function modelErrno(
  command: number,
  flags: number,
  offset: bigint,
  length: number,
  structured: boolean,
): number {
  const valid = new Map<number, number>([
    [Command.Read, 1 | 4],
    [Command.Write, 1],
    [Command.Flush, 1],
    [Command.Trim, 1],
    [Command.Cache, 1],
    [Command.WriteZeroes, 1 | 2 | 16],
    [Command.BlockStatus, 1 | 8],
  ]).get(command);
  if (valid === undefined || (flags | valid) !== valid) return Errno.EINVAL;
  if ((flags & 4) !== 0 && !structured) return Errno.EINVAL;
  if (command === Command.Flush) return offset === 0n && length === 0 ? 0 : Errno.EINVAL;
  const hasData = command === Command.Read || command === Command.Write;
  if (hasData && length > MAX_PAYLOAD_BYTES) return (flags & 4) === 0 ? Errno.EINVAL : Errno.EOVERFLOW;
  if (offset + BigInt(length) > BigInt(sizeBytes)) {
    return command === Command.Write || command === Command.WriteZeroes ? Errno.ENOSPC : Errno.EINVAL;
  }
  if (command === Command.BlockStatus && length === 0) return Errno.EINVAL;
  return 0;
}

/** The replies in a stream of answers: for each cookie its errnos, and how many bytes of data came with each. */
function parse(answers: Buffer, reads: ReadonlyMap<bigint, number[]>): Map<bigint, string[]> {
  const replies = new Map<bigint, string[]>();
  const partial = new Map<bigint, number>();
  const add = (cookie: bigint, reply: string): void => {
    replies.set(cookie, [...(replies.get(cookie) ?? []), reply]);
  };
  for (let at = 0; at < answers.length;) {
    if (answers.readUInt32BE(at) === SIMPLE_REPLY_MAGIC) {
      const errno = answers.readUInt32BE(at + 4);
      const cookie = answers.readBigUInt64BE(at + 8);
      at += Length.SimpleReply;
      const length = errno === 0 ? (reads.get(cookie)?.[0] ?? 0) : 0;
      at += length;
      add(cookie, `${errno} ${length}`);
      continue;
    }
    const isDone = (answers.readUInt16BE(at + 4) & ChunkFlag.Done) !== 0;
    const type = answers.readUInt16BE(at + 6);
    const cookie = answers.readBigUInt64BE(at + 8);
    const payload = answers.subarray(
      at + Length.ChunkHeader,
      at + Length.ChunkHeader + answers.readUInt32BE(at + 16),
    );
    at += Length.ChunkHeader + payload.length;
    let dataBytes = partial.get(cookie) ?? 0;
    if (type === ChunkType.OffsetData) dataBytes += payload.length - 8;
    if (type === ChunkType.OffsetHole) dataBytes += payload.readUInt32BE(8);
    partial.set(cookie, isDone ? 0 : dataBytes);
    if (isDone) add(cookie, `${type === ChunkType.Error ? payload.readUInt32BE(0) : 0} ${dataBytes}`);
  }
  return replies;
}

async function runOne(random: Random, connect: Connect): Promise<number> {
  const structured = random.below(3) !== 0;
  await using pipe = await connect(structured);
  const bytes = randomStream(random);
  for (let at = 0; at < bytes.length;) {
    const end = at + 1 + random.below(random.pick([30, 300, 100_000]));
    pipe.feed(bytes.subarray(at, end));
    if (random.below(8) === 0) await new Promise(setImmediate);
    at = end;
  }
  pipe.feedEnd();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('the connection does not end')), 10_000);
  });
  await Promise.race([pipe.ended, late]);
  clearTimeout(timer);

  const { expected, dropped } = model(bytes, structured);
  const reads = new Map<bigint, number[]>();
  const wanted = new Map<bigint, string[]>();
  for (const { cookie, errno, read } of expected) {
    if (read !== undefined) reads.set(cookie, [...(reads.get(cookie) ?? []), read]);
    const reply = `${errno} ${errno === 0 ? (read ?? 0) : 0}`;
    wanted.set(cookie, [...(wanted.get(cookie) ?? []), reply]);
  }
  // Where two requests had one cookie, a simple reply does not tell whose data it carries.
  const isClear = structured || [...reads.keys()].every((cookie) => wanted.get(cookie)?.length === 1);
  if (dropped || !isClear) return expected.length;
  const sorted = (replies: Map<bigint, string[]>): [bigint, string[]][] =>
    [...replies].map(([cookie, list]) => [cookie, list.toSorted()]);
  expect(new Map(sorted(parse(pipe.answers, reads)))).toEqual(new Map(sorted(wanted)));
  return expected.length;
}

/**
 * Whatever is sent is answered as the protocol says, without crash or hang.
 *
 * @param runs connections; each has some dozens of requests.
 * @param memoryBytes how much memory is in use.
 * @returns by how many bytes it has grown since the first {@link WARM_UP} connections.
 */
export async function fuzzTransmission(
  runs: number,
  connect: Connect,
  memoryBytes: () => number,
): Promise<number> {
  const seed = testSeed();
  let inputs = 0;
  let warm: number | undefined;
  for (let run = 0; run < runs; run++) {
    try {
      inputs += await runOne(new Random(seed + run), connect);
    } catch (error) {
      throw new Error(`SEED=${seed + run} RUNS=1 shows it`, { cause: error });
    }
    if (run === WARM_UP) warm = memoryBytes();
  }
  const grown = warm === undefined ? 0 : memoryBytes() - warm;
  console.log(`${inputs} requests on ${runs} connections, ${grown} bytes more`);
  return grown;
}
