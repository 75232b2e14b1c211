import type { NbdExport } from './exports.js';
import { InfoType, Length, MAX_PAYLOAD_BYTES, OPTION_REPLY_MAGIC, OptionReply } from '../protocol.js';
import { uint16, uint32 } from '../numbers.js';

/** One reply to an option: magic, option, type, length of its data, data. */
export function optionReply(option: number, type: number, data: Buffer = Buffer.alloc(0)): Buffer {
  const header = Buffer.alloc(Length.OptionReplyHeader);
  header.writeBigUInt64BE(OPTION_REPLY_MAGIC, 0);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(type, 12);
  header.writeUInt32BE(data.length, 16);
  return Buffer.concat([header, data]);
}

/** An export in the answer to LIST: length of its name, name, description. */
export function serverReply(option: number, { name, description = '' }: NbdExport): Buffer {
  const nameBytes = Buffer.from(name);
  return optionReply(
    option,
    OptionReply.Server,
    Buffer.concat([uint32(nameBytes.length), nameBytes, Buffer.from(description)]),
  );
}

export function metaContextReply(option: number, id: number, name: string): Buffer {
  return optionReply(option, OptionReply.MetaContext, Buffer.concat([uint32(id), Buffer.from(name)]));
}

/**
 * What is told of an export in the answer to INFO and GO: size and flags, and block sizes, always; the rest on request.
 */
export function infoReplies(
  option: number,
  { name, description, device }: NbdExport,
  flags: number,
  wanted: ReadonlySet<number>,
): Buffer[] {
  const info = (type: number, data: Buffer): Buffer =>
    optionReply(option, OptionReply.Info, Buffer.concat([uint16(type), data]));
  const replies = [
    info(InfoType.Export, sizeAndFlags(device.sizeBytes, flags)),
    info(InfoType.BlockSize, blockSizes(device.capabilities.preferredBlockBytes)),
  ];
  if (wanted.has(InfoType.Name)) replies.push(info(InfoType.Name, Buffer.from(name)));
  if (wanted.has(InfoType.Description) && description !== undefined) {
    replies.push(info(InfoType.Description, Buffer.from(description)));
  }
  return replies;
}

/** Size of an export, transmission flags. */
export function sizeAndFlags(sizeBytes: number, flags: number): Buffer {
  const data = Buffer.alloc(10);
  data.writeBigUInt64BE(BigInt(sizeBytes), 0);
  data.writeUInt16BE(flags, 8);
  return data;
}

const LEAST_PREFERRED_BYTES = 512;

/** Minimum, preferred, maximum. Devices take any range; the preferred size has to be a power of two. */
function blockSizes(preferredBlockBytes: number): Buffer {
  let preferred = LEAST_PREFERRED_BYTES;
  while (preferred < preferredBlockBytes && preferred < MAX_PAYLOAD_BYTES) preferred *= 2;
  return Buffer.concat([uint32(1), uint32(preferred), uint32(MAX_PAYLOAD_BYTES)]);
}
