import { expect, test } from 'vitest';
import { MemoryDevice } from '#src/devices/memory';
import type { MetaContext } from '#src/nbd/server/exports';
import { Handshake } from '#src/nbd/server/handshake';
import {
  InfoType,
  Length,
  MAX_PAYLOAD_BYTES,
  Option,
  OPTION_MAGIC,
  OPTION_REPLY_MAGIC,
  OptionReply,
} from '#src/nbd/protocol';
import { Random } from '#src/runtime/random';
import { KiB, MiB } from '#src/runtime/sizes';
import { differenceAt } from '../support/bytes.js';
import { testSeed } from '../support/seed.js';
import { usedBytes } from '../support/used-bytes.js';
import { encodeInfo, encodeOption, encodeQueries, tableOf, uint32 } from './haggler.js';
import { Pipe } from './pipe.js';

/** Connections; each has up to some dozens of options. RUNS=1000000 for a long run. */
const runs = Number(process.env['RUNS'] ?? 30_000);

const context = (name: string): MetaContext => ({ name, describe: () => Promise.resolve([]) });
const exports = [
  { name: 'disk', description: 'a disk', device: new MemoryDevice(4096), contexts: [context('x-a:b')] },
  { name: 'é', device: new MemoryDevice(1) },
];
const contextNames = new Map(
  exports.map(
    (each) => [each.name, ['base:allocation', ...(each.contexts ?? []).map(({ name }) => name)]] as const,
  ),
);

const options = [...Object.values(Option), 0, 4, 12, 2 ** 32 - 1];
const names = ['disk', 'disk', 'disk', 'é', '', 'nobody', 'disk\0', 'x'.repeat(4096), 'x'.repeat(4097)];
const queries = ['base:', 'base:allocation', 'x-a:b', 'x-a:', 'x-a', '', ':', 'z:z', `y:${'y'.repeat(4095)}`];

function randomOption(random: Random): Buffer {
  const option = random.pick(options);
  // Most handshakes should go on for a while.
  const isFinal = option === Option.Abort || option === Option.Go || option === Option.ExportName;
  if (isFinal && random.below(3) !== 0) return encodeOption(Option.StructuredReply);
  switch (random.below(12) === 0 ? -1 : option) {
    case Option.ExportName:
      return encodeOption(option, Buffer.from(random.pick(names)));
    case Option.Info:
    case Option.Go: {
      const wanted = Array.from({ length: random.below(5) }, () => random.below(5));
      return encodeOption(option, encodeInfo(random.pick(names), ...wanted));
    }
    case Option.ListMetaContext:
    case Option.SetMetaContext: {
      const chosen = Array.from({ length: random.below(4) }, () => random.pick(queries));
      return encodeOption(option, encodeQueries(random.pick(names), ...chosen));
    }
    case -1:
      return encodeOption(option, Buffer.alloc(random.pick([1, 5, 100, 64 * KiB, 64 * KiB + 1, 200_000])));
    default:
      return encodeOption(option);
  }
}

/** What a client sends, and now and then something broken in it. */
function randomStream(random: Random): Buffer {
  const flags = random.below(20) === 0 ? random.pick([0, 1, 2, 4, 2 ** 31]) : 3;
  const parts = [uint32(flags)];
  for (let left = random.below(25); left >= 0; left--) parts.push(randomOption(random));
  let bytes = Buffer.concat(parts);
  if (random.below(2) === 0) return bytes;
  for (let left = random.below(4); left >= 0 && bytes.length > 0; left--) {
    const at = random.below(Math.min(bytes.length, 2000));
    const kind = random.below(4);
    if (kind === 0) bytes[at] = random.below(256);
    else if (kind === 1) bytes[at] = (bytes[at] ?? 0) ^ (1 << random.below(8));
    else if (kind === 2) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1)]);
    else bytes = bytes.subarray(0, at);
  }
  return bytes;
}

interface Expected {
  /** For each option: itself, how many replies come before the final one, and the final one. */
  answers: string[];
  outcome: string;
  /** Where transmission begins. */
  at?: number;
}

/** What a plain reading of the protocol says must be answered. */
function model(bytes: Buffer, isTlsRequired: boolean): Expected {
  const answers: string[] = [];
  const closed = { answers, outcome: 'closed' };
  if (bytes.length < 4 || bytes.readUInt32BE() > 3) return closed;
  const flags = bytes.readUInt32BE();
  let structured = false;
  let selection: { name: string; contexts: string[] } | undefined;
  for (let at = 4; ;) {
    if (bytes.length - at < 16 || bytes.readBigUInt64BE(at) !== OPTION_MAGIC) return closed;
    const option = bytes.readUInt32BE(at + 8);
    const length = bytes.readUInt32BE(at + 12);
    at += 16;
    if (length > MAX_PAYLOAD_BYTES || bytes.length - at < length) return closed;
    const data = bytes.subarray(at, at + length);
    at += length;
    const opened = (name: string): Expected => {
      const contexts = selection?.name === name ? selection.contexts : [];
      return { answers, outcome: `${name} ${structured} ${contexts.join()}`, at };
    };
    if (option === Option.ExportName) {
      const name = data.toString();
      return contextNames.has(name) && !isTlsRequired && isString(data) ? opened(name) : closed;
    }
    if ((flags & 1) === 0) return closed;
    const answer = modelAnswer(option, data, { isTlsRequired, structured });
    if (option === Option.SetMetaContext) selection = answer.selection;
    answers.push(`${option} ${answer.before} ${answer.type}`);
    if (answer.type !== OptionReply.Ack) continue;
    if (option === Option.StructuredReply) structured = true;
    if (option === Option.Abort) return { answers, outcome: 'aborted' };
    if (option === Option.StartTls) return { answers, outcome: 'closed', at };
    if (option === Option.Go) return opened(data.subarray(4, 4 + data.readUInt32BE()).toString());
  }
}

interface ModelAnswer {
  before: number;
  type: number;
  selection?: { name: string; contexts: string[] };
}

function modelAnswer(
  option: number,
  data: Buffer,
  { isTlsRequired, structured }: { isTlsRequired: boolean; structured: boolean },
): ModelAnswer {
  const just = (type: number): ModelAnswer => ({ before: 0, type });
  const { Ack, ErrInvalid, ErrUnknown } = OptionReply;
  if (option === Option.Abort) return just(Ack);
  if (isTlsRequired && option !== Option.StartTls) return just(OptionReply.ErrTlsRequired);
  if (![3, 5, 6, 7, 8, 9, 10].includes(option)) return just(OptionReply.ErrUnsupported);
  if (data.length > 64 * KiB) return just(OptionReply.ErrTooBig);
  if ([3, 5, 8].includes(option) && data.length > 0) return just(ErrInvalid);
  if (option === Option.List) return { before: exports.length, type: Ack };
  if (option === Option.StartTls) return just(isTlsRequired ? Ack : OptionReply.ErrPolicy);
  if (option === Option.StructuredReply) return just(Ack);
  if (option === Option.SetMetaContext && !structured) return just(ErrInvalid);

  const fields = option === Option.Info || option === Option.Go ? splitInfo(data) : splitQueries(data);
  if (!fields) return just(ErrInvalid);
  const found = exports.find((each) => each.name === fields.name);
  if (!found) return just(ErrUnknown);
  if ('wanted' in fields) {
    const isTold = (type: number): number => (fields.wanted.includes(type) ? 1 : 0);
    const description = found.description === undefined ? 0 : isTold(InfoType.Description);
    return { before: 2 + isTold(InfoType.Name) + description, type: Ack };
  }
  if (fields.queries.some((query) => query.indexOf(':') < 1)) return just(ErrInvalid);
  const isList = option === Option.ListMetaContext;
  const contexts = (contextNames.get(found.name) ?? []).filter(
    (name) =>
      (isList && fields.queries.length === 0) ||
      fields.queries.some(
        (query) => name === query || (isList && query.endsWith(':') && name.startsWith(query)),
      ),
  );
  return { before: contexts.length, type: Ack, selection: { name: found.name, contexts } };
}

function splitInfo(data: Buffer): { name: string; wanted: number[] } | undefined {
  const name = stringAt(data, 0);
  if (!name || data.length < name.end + 2) return undefined;
  const count = data.readUInt16BE(name.end);
  if (data.length !== name.end + 2 + 2 * count) return undefined;
  return {
    name: name.text,
    wanted: Array.from({ length: count }, (_, i) => data.readUInt16BE(name.end + 2 + 2 * i)),
  };
}

function splitQueries(data: Buffer): { name: string; queries: string[] } | undefined {
  const name = stringAt(data, 0);
  if (!name || data.length < name.end + 4) return undefined;
  const found: string[] = [];
  let at = name.end + 4;
  for (let left = data.readUInt32BE(name.end); left > 0; left--) {
    const query = stringAt(data, at);
    if (!query) return undefined;
    found.push(query.text);
    at = query.end;
  }
  return at === data.length ? { name: name.text, queries: found } : undefined;
}

function stringAt(data: Buffer, at: number): { text: string; end: number } | undefined {
  if (data.length < at + 4) return undefined;
  const end = at + 4 + data.readUInt32BE(at);
  const bytes = data.subarray(at + 4, end);
  return end <= data.length && isString(bytes) ? { text: bytes.toString(), end } : undefined;
}

function isString(bytes: Buffer): boolean {
  return bytes.length <= 4096 && !bytes.includes(0) && Buffer.from(bytes.toString()).equals(bytes);
}

/** The replies in a stream of answers, as {@link Expected} has them, and how many bytes they take with the greeting. */
function parse(sent: Buffer): { answers: string[]; end: number } {
  const answers: string[] = [];
  let before = 0;
  let at: number = Length.Greeting;
  while (sent.length - at >= Length.OptionReplyHeader && sent.readBigUInt64BE(at) === OPTION_REPLY_MAGIC) {
    const type = sent.readUInt32BE(at + 12);
    if (type === OptionReply.Ack || type >= 2 ** 31) {
      answers.push(`${sent.readUInt32BE(at + 8)} ${before} ${type}`);
      before = 0;
    } else {
      before++;
    }
    at += Length.OptionReplyHeader + sent.readUInt32BE(at + 16);
  }
  expect(before).toBe(0);
  return { answers, end: at };
}

/** How the handshake ends, in the words of {@link Expected}. */
async function outcomeOf(handshake: Handshake): Promise<string> {
  try {
    const negotiated = await handshake.run();
    if (!negotiated) return 'aborted';
    const { export: opened, structuredReplies, contexts } = negotiated;
    return `${opened.name} ${structuredReplies} ${[...contexts.values()].map(({ name }) => name).join()}`;
  } catch {
    return 'closed';
  }
}

async function runOne(random: Random): Promise<number> {
  const isTlsRequired = random.below(10) === 0;
  const pipe = new Pipe();
  pipe.on('error', () => {});
  const tls = isTlsRequired ? { credentials: {}, isRequired: true } : undefined;
  const ended = outcomeOf(new Handshake(pipe, { exports: tableOf(exports), tls }));
  const bytes = randomStream(random);
  const step = random.pick([3, 30, 300, 100_000, 1_000_000]);
  for (let at = 0; at < bytes.length;) {
    const end = at + 1 + random.below(bytes.length > 10_000 ? 1_000_000 : step);
    pipe.feed(bytes.subarray(at, end));
    if (random.below(8) === 0) await new Promise(setImmediate);
    at = end;
  }
  pipe.feedEnd();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('the handshake does not end')), 10_000);
  });
  const outcome = await Promise.race([ended, late]);
  clearTimeout(timer);

  const expected = model(bytes, isTlsRequired);
  const { answers, end } = parse(pipe.answers);
  const isUpgrade = isTlsRequired && expected.at !== undefined;
  // Whether an option that came right after STARTTLS was seen with it is a matter of luck.
  if (isUpgrade && answers.length < expected.answers.length) expected.answers.pop();
  expect({ answers, outcome }).toEqual({ answers: expected.answers, outcome: expected.outcome });
  if (expected.at !== undefined && !isUpgrade) {
    // What comes after the handshake is all there, and nothing but the answer to EXPORT_NAME was sent besides.
    const rest = (pipe.read() as Buffer | null) ?? Buffer.alloc(0);
    expect(differenceAt(rest, bytes.subarray(expected.at))).toBeUndefined();
    expect([0, 10, 134]).toContain(pipe.answers.length - end);
  }
  pipe.destroy();
  return expected.answers.length;
}

test(
  'whatever is sent is answered as the protocol says, without crash, hang or growth',
  async () => {
    const seed = testSeed();
    let inputs = 0;
    let warm = 0;
    for (let run = 0; run < runs; run++) {
      try {
        inputs += await runOne(new Random(seed + run));
      } catch (error) {
        throw new Error(`SEED=${seed + run} RUNS=1 shows it`, { cause: error });
      }
      if (run === Math.floor(runs / 10)) warm = usedBytes();
    }
    console.log(`${inputs} options on ${runs} connections`);
    expect(usedBytes() - warm).toBeLessThan(16 * MiB);
  },
  60 * 60_000,
);
