import { MAX_STRING_BYTES, OptionReply } from '../protocol.js';

/** Why an option is not carried out. It is told to the client, and never leaves the handshake. */
export class OptionRefused extends Error {
  constructor(
    readonly type: number,
    message: string,
  ) {
    super(message);
  }
}

/**
 * Reads the data of an option from its start to its end. Whatever it says, nothing is read beyond it.
 *
 * @throws OptionRefused ERR_INVALID where it is shorter or longer than it says, or a string is none.
 */
export class OptionData {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  uint16(): number {
    return this.#take(2).readUInt16BE();
  }

  uint32(): number {
    return this.#take(4).readUInt32BE();
  }

  /** A string with its length in front of it. */
  string(): string {
    const lengthBytes = this.uint32();
    return decodeString(this.#take(lengthBytes));
  }

  /** States that nothing is left. */
  end(): void {
    const leftBytes = this.#bytes.length - this.#at;
    if (leftBytes > 0) throw invalid(`${leftBytes} bytes more than the option has`);
  }

  #take(lengthBytes: number): Buffer {
    const end = this.#at + lengthBytes;
    if (end > this.#bytes.length) throw invalid('the data of the option ends too early');
    const bytes = this.#bytes.subarray(this.#at, end);
    this.#at = end;
    return bytes;
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** @throws OptionRefused ERR_INVALID */
export function decodeString(bytes: Buffer): string {
  if (bytes.length > MAX_STRING_BYTES) throw invalid(`a string is longer than ${MAX_STRING_BYTES} bytes`);
  if (bytes.includes(0)) throw invalid('a string contains a NUL');
  try {
    return utf8.decode(bytes);
  } catch {
    throw invalid('a string is not UTF-8');
  }
}

export function invalid(message: string): OptionRefused {
  return new OptionRefused(OptionReply.ErrInvalid, message);
}
