import { CofferdamError } from '../../runtime/errors.js';
import { MAX_PAYLOAD_BYTES, TransmissionFlag } from '../protocol.js';

/** What a server says of an export, as far as it matters to a client, checked. */
export interface ExportTerms {
  readonly sizeBytes: number;
  /** {@link TransmissionFlag} bits. */
  readonly flags: number;
  /** Offsets and lengths are multiples of it; a power of 2, and it divides the size. */
  readonly minimumBytes: number;
  readonly preferredBytes: number;
  /** No request that moves or zeroes bytes is longer; a multiple of the minimum. */
  readonly maximumBytes: number;
  /** Whether the server answers for `base:allocation`. */
  readonly tellsAllocation: boolean;
}

/** The constraints on requests that a server states. */
export interface BlockSizes {
  minimumBytes: number;
  preferredBytes: number;
  maximumBytes: number;
}

/** What holds with servers that state nothing. */
export const defaultBlockSizes: BlockSizes = {
  minimumBytes: 1,
  preferredBytes: 4096,
  maximumBytes: MAX_PAYLOAD_BYTES,
};

const LARGEST_MINIMUM_BYTES = 65_536;

export function hasFlag({ flags }: Pick<ExportTerms, 'flags'>, flag: number): boolean {
  return (flags & flag) !== 0;
}

/** @throws CofferdamError PROTOCOL_ERROR; DEVICE_UNSUPPORTED if the export is larger than 2^53-1 bytes. */
export function checkedTerms(
  stated: { size: bigint; flags: number },
  blocks: BlockSizes,
  tellsAllocation: boolean,
): ExportTerms {
  if (stated.size > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new CofferdamError(
      'DEVICE_UNSUPPORTED',
      `the export has ${stated.size} bytes; up to 2^53-1 will do`,
    );
  }
  if (!hasFlag(stated, TransmissionFlag.HasFlags)) {
    throw violation(
      `the transmission flags 0x${stated.flags.toString(16)} lack the bit that says they are any`,
    );
  }
  const { minimumBytes, preferredBytes, maximumBytes } = blocks;
  if (!isPowerOfTwo(minimumBytes) || minimumBytes > LARGEST_MINIMUM_BYTES) {
    throw violation(`a minimum block size of ${minimumBytes} bytes`);
  }
  if (!isPowerOfTwo(preferredBytes) || preferredBytes < minimumBytes) {
    throw violation(`a preferred block size of ${preferredBytes} bytes`);
  }
  if (maximumBytes < minimumBytes) throw violation(`a maximum block size of ${maximumBytes} bytes`);
  const size = Number(stated.size);
  return {
    // What is behind the last whole block can never be asked for.
    sizeBytes: size - (size % minimumBytes),
    flags: stated.flags,
    minimumBytes,
    preferredBytes,
    // Both MAX_PAYLOAD_BYTES and what a server may state are multiples, but for 2^32-1, which means no limit.
    maximumBytes: Math.floor(Math.min(maximumBytes, MAX_PAYLOAD_BYTES) / minimumBytes) * minimumBytes,
    tellsAllocation,
  };
}

function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(Math.log2(value));
}

/** A server that does what the protocol forbids. */
export function violation(what: string): CofferdamError {
  return new CofferdamError('PROTOCOL_ERROR', `the NBD server sent ${what}, which the protocol forbids`);
}

/** What a server says for people to read: one line, without control characters, of a bounded length. */
export function wordsOf(bytes: Uint8Array): string {
  return Buffer.from(bytes)
    .toString('utf8')
    .replaceAll(/\p{Cc}+/gu, ' ')
    .trim()
    .slice(0, 300);
}
