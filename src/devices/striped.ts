import { CofferdamError, invariant } from '../runtime/errors.js';
import { checkedBytes, SECTOR_BYTES } from '../runtime/sizes.js';
import {
  appendExtent,
  type BlockDevice,
  type Capabilities,
  type Extent,
  type WriteOptions,
  type WriteZeroesOptions,
} from './block-device.js';
import { assertChildren, closeAll, commonCapabilities, smallestBytes } from './composite.js';
import { Lifetime } from './lifetime.js';
import { allSettled } from './settle.js';

export interface StripedDeviceOptions {
  /** Length of a stripe in bytes, a multiple of 512. */
  stripeBytes: number;
}

/** What of a request falls to one child: always one contiguous range, because its stripes lie side by side there. */
interface Share {
  child: BlockDevice;
  index: number;
  offsetBytes: number;
  lengthBytes: number;
}

/**
 * Stripes over several devices (RAID 0): stripe s is stripe floor(s / n) of child s mod n. It owns its children and
 * closes them. What the smallest child has no whole stripe for is not used.
 *
 * Every request becomes at most one request per child, all at the same time.
 */
export class StripedDevice implements BlockDevice {
  readonly name: string;
  readonly sizeBytes: number;
  readonly capabilities: Capabilities;
  /** The bytes are in several places. */
  readonly nativeSource = undefined;
  readonly #children: readonly BlockDevice[];
  readonly #stripeBytes: number;
  readonly #lifetime = new Lifetime(this);

  /** @throws CofferdamError BAD_ARGUMENT */
  constructor(children: readonly BlockDevice[], { stripeBytes }: StripedDeviceOptions) {
    assertChildren('striped device', children);
    if (!Number.isSafeInteger(stripeBytes) || stripeBytes <= 0 || stripeBytes % SECTOR_BYTES !== 0) {
      throw new CofferdamError(
        'BAD_ARGUMENT',
        `striped device: stripes of ${stripeBytes} bytes; use a multiple of 512`,
      );
    }
    this.#children = [...children];
    this.#stripeBytes = stripeBytes;
    this.name = `stripes over ${children.map((child) => child.name).join(', ')}`;
    const perChildBytes = Math.floor(smallestBytes(children) / stripeBytes) * stripeBytes;
    this.sizeBytes = checkedBytes(perChildBytes * children.length, 'size of a striped device');
    this.capabilities = commonCapabilities(children);
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    using _request = this.#lifetime.admit('read', offsetBytes, into.byteLength);
    await this.#onShares(offsetBytes, into.byteLength, async (share) => {
      const whole = this.#onlyPiece(share, offsetBytes, into);
      if (whole) return share.child.read(share.offsetBytes, whole);
      const gathered = Buffer.allocUnsafe(share.lengthBytes);
      await share.child.read(share.offsetBytes, gathered);
      for (const piece of this.#pieces(share, offsetBytes, gathered, into)) piece.callers.set(piece.childs);
    });
  }

  async write(offsetBytes: number, bytes: Uint8Array, options?: WriteOptions): Promise<void> {
    using _request = this.#lifetime.admit('write', offsetBytes, bytes.byteLength);
    await this.#onShares(offsetBytes, bytes.byteLength, async (share) => {
      const whole = this.#onlyPiece(share, offsetBytes, bytes);
      if (whole) return share.child.write(share.offsetBytes, whole, options);
      const gathered = Buffer.allocUnsafe(share.lengthBytes);
      for (const piece of this.#pieces(share, offsetBytes, gathered, bytes)) piece.childs.set(piece.callers);
      await share.child.write(share.offsetBytes, gathered, options);
    });
  }

  async flush(): Promise<void> {
    using _request = this.#lifetime.admitFlush();
    await allSettled(this.#children.map((child) => child.flush()));
  }

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    using _request = this.#lifetime.admit('trim', offsetBytes, lengthBytes);
    await this.#onShares(offsetBytes, lengthBytes, (share) =>
      share.child.trim(share.offsetBytes, share.lengthBytes),
    );
  }

  async writeZeroes(offsetBytes: number, lengthBytes: number, options?: WriteZeroesOptions): Promise<void> {
    using _request = this.#lifetime.admit('write zeroes', offsetBytes, lengthBytes);
    await this.#onShares(offsetBytes, lengthBytes, (share) =>
      share.child.writeZeroes(share.offsetBytes, share.lengthBytes, options),
    );
  }

  async allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    using _request = this.#lifetime.admit('allocation', offsetBytes, lengthBytes);
    const perChild: Extent[][] = this.#children.map(() => []);
    await this.#onShares(offsetBytes, lengthBytes, async (share) => {
      perChild[share.index] = await share.child.allocation(share.offsetBytes, share.lengthBytes);
    });
    return this.#mergeAllocation(offsetBytes, lengthBytes, perChild);
  }

  close(): Promise<void> {
    return this.#lifetime.close(() => closeAll(this.#children));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #onShares(
    offsetBytes: number,
    lengthBytes: number,
    request: (share: Share) => Promise<void>,
  ): Promise<void> {
    const shares: Share[] = [];
    for (const [index, child] of this.#children.entries()) {
      const start = this.#childPosition(index, offsetBytes);
      const length = this.#childPosition(index, offsetBytes + lengthBytes) - start;
      if (length > 0) shares.push({ child, index, offsetBytes: start, lengthBytes: length });
    }
    await allSettled(shares.map(request));
  }

  /** How many bytes of child `index` lie before `position` of this device. */
  #childPosition(index: number, position: number): number {
    const stripe = Math.floor(position / this.#stripeBytes);
    const row = Math.floor(stripe / this.#children.length);
    const column = stripe % this.#children.length;
    if (column < index) return row * this.#stripeBytes;
    if (column > index) return (row + 1) * this.#stripeBytes;
    return row * this.#stripeBytes + (position % this.#stripeBytes);
  }

  /** The position on this device of byte `position` of child `index`. */
  #devicePosition(index: number, position: number): number {
    const row = Math.floor(position / this.#stripeBytes);
    return (row * this.#children.length + index) * this.#stripeBytes + (position % this.#stripeBytes);
  }

  /** The caller's bytes of a share that is all in one stripe, and so needs no copy. */
  #onlyPiece(share: Share, requestBytes: number, callers: Uint8Array): Uint8Array | undefined {
    if ((share.offsetBytes % this.#stripeBytes) + share.lengthBytes > this.#stripeBytes) return undefined;
    const at = this.#devicePosition(share.index, share.offsetBytes) - requestBytes;
    return callers.subarray(at, at + share.lengthBytes);
  }

  /** The pieces of a share, stripe by stripe: in the buffer of the child's request and in the caller's. */
  *#pieces(
    share: Share,
    requestBytes: number,
    gathered: Uint8Array,
    callers: Uint8Array,
  ): Generator<{ childs: Uint8Array; callers: Uint8Array }> {
    for (let at = 0; at < share.lengthBytes;) {
      const position = share.offsetBytes + at;
      const length = Math.min(this.#stripeBytes - (position % this.#stripeBytes), share.lengthBytes - at);
      const callersAt = this.#devicePosition(share.index, position) - requestBytes;
      yield {
        childs: gathered.subarray(at, at + length),
        callers: callers.subarray(callersAt, callersAt + length),
      };
      at += length;
    }
  }

  #mergeAllocation(offsetBytes: number, lengthBytes: number, perChild: readonly Extent[][]): Extent[] {
    const merged: Extent[] = [];
    const next = perChild.map(() => 0);
    const end = offsetBytes + lengthBytes;
    for (let at = offsetBytes; at < end;) {
      const index = Math.floor(at / this.#stripeBytes) % this.#children.length;
      const extent = perChild[index]?.[next[index] ?? 0];
      invariant(extent !== undefined, `the allocation map of child ${index} ends early`);
      const left = extent.offsetBytes + extent.lengthBytes - this.#childPosition(index, at);
      const length = Math.min(this.#stripeBytes - (at % this.#stripeBytes), left, end - at);
      appendExtent(merged, { offsetBytes: at, lengthBytes: length, kind: extent.kind });
      if (length === left) next[index] = (next[index] ?? 0) + 1;
      at += length;
    }
    return merged;
  }
}
