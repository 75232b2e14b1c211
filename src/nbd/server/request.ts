import type { BlockDevice } from '../../devices/block-device.js';
import { Command, CommandFlag, Errno, MAX_PAYLOAD_BYTES, type ErrorNumber } from '../protocol.js';

/** A request as it came over the wire. */
export interface Request {
  flags: number;
  command: number;
  /** The client's name for the request, in two halves: 64 bits do not fit into a number. */
  cookieHigh: number;
  cookieLow: number;
  /** Inexact beyond 2^53, which is far past the end of any device. */
  offsetBytes: number;
  lengthBytes: number;
}

/** What a connection may ask for, besides what the device can do. */
export interface Agreement {
  structuredReplies: boolean;
  /** Whether any metadata context was selected. */
  hasContexts: boolean;
}

/** @param at where the header begins; its magic was looked at already. */
export function decodeRequest(bytes: Buffer, at: number): Request {
  return {
    flags: bytes.readUInt16BE(at + 4),
    command: bytes.readUInt16BE(at + 6),
    cookieHigh: bytes.readUInt32BE(at + 8),
    cookieLow: bytes.readUInt32BE(at + 12),
    offsetBytes: bytes.readUInt32BE(at + 16) * 2 ** 32 + bytes.readUInt32BE(at + 20),
    lengthBytes: bytes.readUInt32BE(at + 24),
  };
}

/** How many bytes follow the header, whether or not the request is refused. */
export function payloadBytesOf(request: Request): number {
  return request.command === Command.Write ? request.lengthBytes : 0;
}

/** What each command may carry. FUA is advertised on every export, so it is valid with every command. */
const flagsOf: Readonly<Record<number, number>> = {
  [Command.Read]: CommandFlag.Fua | CommandFlag.Df,
  [Command.Write]: CommandFlag.Fua,
  [Command.Flush]: CommandFlag.Fua,
  [Command.Trim]: CommandFlag.Fua,
  [Command.Cache]: CommandFlag.Fua,
  [Command.WriteZeroes]: CommandFlag.Fua | CommandFlag.NoHole | CommandFlag.FastZero,
  [Command.BlockStatus]: CommandFlag.Fua | CommandFlag.ReqOne,
};

/**
 * The one place where requests are refused before a device sees them: one errno per rule, the first rule that is broken
 * counts. A disconnect is never refused.
 *
 * @returns Errno.Ok for a request that may go on.
 */
export function refusalOf(request: Request, device: BlockDevice, agreement: Agreement): ErrorNumber {
  const { command, lengthBytes } = request;
  // 1. A command that is not known, or a flag that is not known or means nothing here.
  if (!hasMeaning(request, agreement)) return Errno.EINVAL;
  // 2. A change to what is read-only.
  if (device.capabilities.readOnly && isChange(command)) return Errno.EPERM;
  // 3. A flush has no range.
  if (command === Command.Flush)
    return request.offsetBytes === 0 && lengthBytes === 0 ? Errno.Ok : Errno.EINVAL;
  // 4. More data in one request than a server has to take.
  if (carriesData(command) && lengthBytes > MAX_PAYLOAD_BYTES) {
    return has(request, CommandFlag.Df) ? Errno.EOVERFLOW : Errno.EINVAL;
  }
  // 5. Past the end.
  if (isPastEnd(request, device))
    return isChange(command) && command !== Command.Trim ? Errno.ENOSPC : Errno.EINVAL;
  // 6. The status of no context, or of no byte, cannot be told.
  if (command === Command.BlockStatus && (!agreement.hasContexts || lengthBytes === 0)) return Errno.EINVAL;
  // 7. Zeroing that must be faster than writing, where it is not.
  if (has(request, CommandFlag.FastZero) && !device.capabilities.fastZero) return Errno.ENOTSUP;
  return Errno.Ok;
}

export function has({ flags }: Request, flag: number): boolean {
  return (flags & flag) !== 0;
}

/** Whether data comes with the request or its reply. */
export function carriesData(command: number): boolean {
  return command === Command.Read || command === Command.Write;
}

function isChange(command: number): boolean {
  return command === Command.Write || command === Command.WriteZeroes || command === Command.Trim;
}

function hasMeaning(request: Request, { structuredReplies }: Agreement): boolean {
  const allowed = flagsOf[request.command];
  if (allowed === undefined || (request.flags & ~allowed) !== 0) return false;
  return structuredReplies || !has(request, CommandFlag.Df);
}

/** Compared by subtraction, so that no sum can wrap. */
function isPastEnd({ offsetBytes, lengthBytes }: Request, { sizeBytes }: BlockDevice): boolean {
  return offsetBytes > sizeBytes || lengthBytes > sizeBytes - offsetBytes;
}
