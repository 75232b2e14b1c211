import {
  appendExtent,
  type BlockDevice,
  type Capabilities,
  type Extent,
  type WriteOptions,
  type WriteZeroesOptions,
} from '../../devices/block-device.js';
import { aligned, endOf, type ByteRange } from '../../devices/byte-range.js';
import { Lifetime } from '../../devices/lifetime.js';
import { RangeLock } from '../../devices/range-lock.js';
import { realClock, type Clock } from '../../runtime/clock.js';
import { CofferdamError } from '../../runtime/errors.js';
import { forEachParallel } from '../../runtime/parallel.js';
import { GiB, MiB } from '../../runtime/sizes.js';
import { AllocationFlag, Command, CommandFlag, TransmissionFlag } from '../protocol.js';
import { parseNbdUri } from '../uri.js';
import { Remote } from './remote.js';

export interface NbdDeviceOptions {
  /** At most so many connections, from 1 to 16, where the server allows more than one. Default 4. */
  connections?: number | undefined;
  /** How long requests wait for a server that went away, in milliseconds. 0: not at all, for good. Default 10 s. */
  reconnectMs?: number | undefined;
  clock?: Clock | undefined;
}

/** No request for the allocation is for more than this. Such a request moves few bytes whatever its length is. */
const STATUS_BYTES = GiB;

/** How many parts of one request that is too long for the server are in flight at once. */
const PARTS_AT_ONCE = 16;

/** How long a closing device waits for answers. */
const CLOSING_MS = 10_000;

const zeros = new Uint8Array(MiB);

/**
 * An export of an NBD server: of this project, qemu-nbd, nbdkit, or any other that knows the fixed newstyle.
 *
 * Requests are sent as they come, over as many connections as the load asks for and the server allows. They have no
 * time limit: a server may park a write for as long as its barrier is up.
 *
 * When the connection is lost:
 *
 * - Reads, allocation requests and flushes in flight are sent again as soon as the server is back. Requests that come
 *   meanwhile wait for it. After `reconnectMs` without an answer all that wait fail with CONNECTION_FAILED, and the next
 *   request tries anew.
 * - Writes, trims and write-zeroes in flight fail with CONNECTION_LOST: the server may have done them, or may yet do
 *   them. To send them again could undo a later write, if the first copy lies in a queue of the server for so long. Only
 *   what the server refused because it shuts down is sent again.
 * - Writes that were answered and not flushed may be gone, if it was the server that went and not only the connection;
 *   until they are written again, reads may show what was there before. The next flush therefore fails with
 *   CONNECTION_LOST, once; so do those sent before it failed. Losing one of several connections counts as losing all.
 * - If the export is not what it was (size, flags, block sizes), everything fails with PROTOCOL_ERROR from then on.
 * - A server that breaks the protocol is hung up on. Requests in flight fail with PROTOCOL_ERROR.
 */
export class NbdDevice implements BlockDevice {
  readonly name: string;
  readonly sizeBytes: number;
  readonly capabilities: Capabilities;
  /** The bytes are in another process, if not on another machine. */
  readonly nativeSource = undefined;
  readonly #remote: Remote;
  readonly #clock: Clock;
  readonly #changes = new RangeLock();
  readonly #lifetime = new Lifetime(this);

  private constructor(remote: Remote, clock: Clock) {
    this.#remote = remote;
    this.#clock = clock;
    this.name = remote.name;
    this.sizeBytes = remote.terms.sizeBytes;
    this.capabilities = {
      readOnly: remote.can(TransmissionFlag.ReadOnly), // The server would refuse every change.
      fua: remote.can(TransmissionFlag.SendFua), // Else a flush follows the write.
      trim: remote.can(TransmissionFlag.SendTrim), // What the server makes of it, it does not say.
      fastZero: remote.can(TransmissionFlag.SendWriteZeroes), // The zeros do not go over the network.
      multiConnection: remote.can(TransmissionFlag.CanMultiConn), // This is what the flag says.
      preferredBlockBytes: remote.terms.preferredBytes, // As the server states it, or else what suits most.
    };
  }

  /**
   * @param uri see {@link parseNbdUri}.
   * @throws CofferdamError BAD_ARGUMENT; CONNECTION_FAILED, UNKNOWN_EXPORT, PROTOCOL_ERROR; DEVICE_UNSUPPORTED if the
   * export is larger than 2^53-1 bytes.
   */
  static async open(uri: string, options: NbdDeviceOptions = {}): Promise<NbdDevice> {
    const { connections = 4, reconnectMs = 10_000, clock = realClock } = options;
    if (!Number.isInteger(connections) || connections < 1 || connections > 16) {
      throw new CofferdamError(
        'BAD_ARGUMENT',
        `connections: ${connections} is not a whole number from 1 to 16`,
      );
    }
    if (!(reconnectMs >= 0)) {
      throw new CofferdamError('BAD_ARGUMENT', `reconnectMs: ${reconnectMs} is not a time in milliseconds`);
    }
    return new NbdDevice(await Remote.open(parseNbdUri(uri), { clock, connections, reconnectMs }), clock);
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    using _request = this.#lifetime.admit('read', offsetBytes, into.byteLength);
    const outer = this.#outer(offsetBytes, into.byteLength);
    if (outer.lengthBytes === into.byteLength) return await this.#read(offsetBytes, into);
    const around = Buffer.allocUnsafe(outer.lengthBytes);
    await this.#read(outer.offsetBytes, around);
    const at = offsetBytes - outer.offsetBytes;
    into.set(around.subarray(at, at + into.byteLength));
  }

  async write(offsetBytes: number, bytes: Uint8Array, options: WriteOptions = {}): Promise<void> {
    using _request = this.#lifetime.admit('write', offsetBytes, bytes.byteLength);
    using _turn = await this.#exclusively(offsetBytes, bytes.byteLength);
    await this.#durablyIf(options.fua, (flag) => this.#writeAligned(offsetBytes, bytes, flag));
  }

  async flush(): Promise<void> {
    using _request = this.#lifetime.admitFlush();
    await this.#remote.flush();
  }

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    using _request = this.#lifetime.admit('trim', offsetBytes, lengthBytes);
    if (!this.capabilities.trim) return;
    using _turn = await this.#exclusively(offsetBytes, lengthBytes);
    await this.#inParts(this.#inner(offsetBytes, lengthBytes), this.#remote.terms.maximumBytes, (part) =>
      this.#remote.change({ command: Command.Trim, flags: 0, ...part }),
    );
  }

  async writeZeroes(
    offsetBytes: number,
    lengthBytes: number,
    options: WriteZeroesOptions = {},
  ): Promise<void> {
    using _request = this.#lifetime.admit('write zeroes', offsetBytes, lengthBytes);
    using _turn = await this.#exclusively(offsetBytes, lengthBytes);
    await this.#durablyIf(options.fua, async (flag) => {
      const inner = this.#inner(offsetBytes, lengthBytes);
      // Where no whole block is zeroed, both ends are one.
      const headBytes = inner.lengthBytes === 0 ? lengthBytes : inner.offsetBytes - offsetBytes;
      const tailBytes = lengthBytes - headBytes - inner.lengthBytes;
      await this.#writeAligned(offsetBytes, zeros.subarray(0, headBytes), flag);
      await this.#writeAligned(endOf(inner), zeros.subarray(0, tailBytes), flag);
      await this.#zero(inner, flag | ((options.mayTrim ?? true) ? 0 : CommandFlag.NoHole));
    });
  }

  async allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    using _request = this.#lifetime.admit('allocation', offsetBytes, lengthBytes);
    const extents: Extent[] = [];
    if (!this.#remote.terms.tellsAllocation) {
      appendExtent(extents, { offsetBytes, lengthBytes, kind: 'data' });
      return extents;
    }
    const outer = this.#outer(offsetBytes, lengthBytes);
    const end = offsetBytes + lengthBytes;
    for (let at = outer.offsetBytes; at < end;) {
      const request = { offsetBytes: at, lengthBytes: Math.min(endOf(outer) - at, STATUS_BYTES) };
      // The server may answer for less, or for more, than it was asked for.
      for (const extent of await this.#remote.ask({ command: Command.BlockStatus, flags: 0, ...request })) {
        const start = Math.max(at, offsetBytes);
        at = Math.min(at + extent.lengthBytes, end);
        const kind = (extent.flags & AllocationFlag.Zero) === 0 ? 'data' : 'zero';
        appendExtent(extents, { offsetBytes: start, lengthBytes: Math.max(0, at - start), kind });
      }
    }
    return extents;
  }

  /** Requests in flight are answered first, unless the server is away or takes more than 10 s. */
  async close(): Promise<void> {
    this.#remote.stopWaiting();
    using _deadline = this.#clock.setTimer(CLOSING_MS, () => this.#remote.destroy());
    await this.#lifetime.close(() => this.#remote.end());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** The whole blocks of the server that a range touches. */
  #outer(offsetBytes: number, lengthBytes: number): ByteRange {
    if (lengthBytes === 0) return { offsetBytes, lengthBytes };
    return aligned({ offsetBytes, lengthBytes }, this.#remote.terms.minimumBytes);
  }

  /** The whole blocks of the server that a range covers. */
  #inner(offsetBytes: number, lengthBytes: number): ByteRange {
    const { minimumBytes } = this.#remote.terms;
    const start = Math.ceil(offsetBytes / minimumBytes) * minimumBytes;
    const end = Math.floor((offsetBytes + lengthBytes) / minimumBytes) * minimumBytes;
    return { offsetBytes: start, lengthBytes: Math.max(0, end - start) };
  }

  /**
   * Where the server takes whole blocks only, a change of a part of one reads and writes the rest of it, and no other
   * change of the block may come in between.
   */
  async #exclusively(offsetBytes: number, lengthBytes: number): Promise<Disposable | undefined> {
    if (this.#remote.terms.minimumBytes === 1) return undefined;
    const outer = this.#outer(offsetBytes, lengthBytes);
    return await this.#changes.acquire(outer.offsetBytes, outer.lengthBytes);
  }

  async #durablyIf(fua: boolean | undefined, change: (flag: number) => Promise<void>): Promise<void> {
    if (!fua) return await change(0);
    if (this.capabilities.fua) return await change(CommandFlag.Fua);
    await this.#remote.durably(() => change(0));
  }

  /** For whom holds the range exclusively, if it is not aligned. */
  async #writeAligned(offsetBytes: number, bytes: Uint8Array, flag: number): Promise<void> {
    const outer = this.#outer(offsetBytes, bytes.byteLength);
    const payload =
      outer.lengthBytes === bytes.byteLength ? bytes : await this.#widened(outer, offsetBytes, bytes);
    await this.#inParts(outer, this.#remote.terms.maximumBytes, (part, at) =>
      this.#remote.change({
        command: Command.Write,
        flags: flag,
        ...part,
        payload: payload.subarray(at, at + part.lengthBytes),
      }),
    );
  }

  /** The bytes with what is around them, up to whole blocks. */
  async #widened(outer: ByteRange, offsetBytes: number, bytes: Uint8Array): Promise<Uint8Array> {
    const { minimumBytes } = this.#remote.terms;
    const around = Buffer.allocUnsafe(outer.lengthBytes);
    const lastBytes = outer.lengthBytes - minimumBytes;
    await Promise.all([
      this.#read(outer.offsetBytes, around.subarray(0, minimumBytes)),
      lastBytes === 0 ? undefined : this.#read(outer.offsetBytes + lastBytes, around.subarray(lastBytes)),
    ]);
    around.set(bytes, offsetBytes - outer.offsetBytes);
    return around;
  }

  /** Whole blocks. */
  async #zero(range: ByteRange, flags: number): Promise<void> {
    const { maximumBytes } = this.#remote.terms;
    if (this.capabilities.fastZero) {
      await this.#inParts(range, maximumBytes, (part) =>
        this.#remote.change({ command: Command.WriteZeroes, flags, ...part }),
      );
      return;
    }
    const partFlags = flags & CommandFlag.Fua;
    await this.#inParts(range, Math.min(maximumBytes, zeros.length), (part) =>
      this.#remote.change({
        command: Command.Write,
        flags: partFlags,
        ...part,
        payload: zeros.subarray(0, part.lengthBytes),
      }),
    );
  }

  /** Whole blocks. */
  #read(offsetBytes: number, into: Uint8Array): Promise<void> {
    const range = { offsetBytes, lengthBytes: into.byteLength };
    return this.#inParts(range, this.#remote.terms.maximumBytes, async (part, at) => {
      await this.#remote.ask({
        command: Command.Read,
        flags: 0,
        ...part,
        into: into.subarray(at, at + part.lengthBytes),
      });
    });
  }

  /**
   * Does in parts of at most `partBytes` what may be too long for the server. No bytes are no part.
   *
   * @param action gets where in the range its part begins.
   */
  async #inParts(
    range: ByteRange,
    partBytes: number,
    action: (part: ByteRange, at: number) => Promise<void>,
  ): Promise<void> {
    if (range.lengthBytes === 0) return;
    if (range.lengthBytes <= partBytes) return await action(range, 0);
    await forEachParallel(parts(range.lengthBytes, partBytes), PARTS_AT_ONCE, ({ at, lengthBytes }) =>
      action({ offsetBytes: range.offsetBytes + at, lengthBytes }, at),
    );
  }
}

function* parts(totalBytes: number, partBytes: number): Generator<{ at: number; lengthBytes: number }> {
  for (let at = 0; at < totalBytes; at += partBytes) {
    yield { at, lengthBytes: Math.min(partBytes, totalBytes - at) };
  }
}
