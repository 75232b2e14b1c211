import type { Duplex } from 'node:stream';
import { Length, MAX_STRING_BYTES, OPTION_MAGIC, OPTION_REPLY_MAGIC, OptionReply } from '../protocol.js';
import { readExactly } from '../read-exactly.js';
import { violation, wordsOf } from './export-terms.js';

/** The longest reply that any option of this client can rightly get: a string with some numbers before it. */
const MAX_REPLY_BYTES = MAX_STRING_BYTES + 64;

/** More replies to one option than any server has to send to this client. */
const MAX_REPLIES = 64;

export interface Reply {
  type: number;
  data: Buffer;
}

export type OptionOutcome =
  /** All replies before the acknowledgement. */
  | { agreed: true; replies: Reply[] }
  /** @param type one of the errors of {@link OptionReply}. */
  | { agreed: false; type: number; words: string };

export function optionHeader(option: number, lengthBytes: number): Buffer {
  const header = Buffer.alloc(Length.OptionHeader);
  header.writeBigUInt64BE(OPTION_MAGIC, 0);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(lengthBytes, 12);
  return header;
}

/**
 * Sends an option and waits for its last reply.
 *
 * @throws CofferdamError PROTOCOL_ERROR, CONNECTION_LOST
 */
export async function askOption(
  stream: Duplex,
  option: number,
  data = Buffer.alloc(0),
): Promise<OptionOutcome> {
  stream.write(Buffer.concat([optionHeader(option, data.length), data]));
  const replies: Reply[] = [];
  for (;;) {
    const reply = await readReply(stream, option);
    if (reply.type === OptionReply.Ack) return { agreed: true, replies };
    if (reply.type >= 2 ** 31) return { agreed: false, type: reply.type, words: wordsOf(reply.data) };
    if (replies.length === MAX_REPLIES)
      throw violation(`more than ${MAX_REPLIES} replies to option ${option}`);
    replies.push(reply);
  }
}

async function readReply(stream: Duplex, option: number): Promise<Reply> {
  const header = await readExactly(stream, Length.OptionReplyHeader);
  if (header.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC)
    throw violation('a reply to an option without its magic number');
  const answered = header.readUInt32BE(8);
  if (answered !== option) throw violation(`a reply to option ${answered} when it was asked for ${option}`);
  const lengthBytes = header.readUInt32BE(16);
  if (lengthBytes > MAX_REPLY_BYTES) throw violation(`a reply of ${lengthBytes} bytes to option ${option}`);
  return { type: header.readUInt32BE(12), data: await readExactly(stream, lengthBytes) };
}
