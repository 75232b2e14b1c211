import { sleep, type Clock } from '../runtime/clock.js';
import { CofferdamError, type ErrorCode } from '../runtime/errors.js';
import { SECTOR_BYTES } from '../runtime/sizes.js';
import type { BlockDevice, Capabilities, Extent, WriteOptions, WriteZeroesOptions } from './block-device.js';
import { ActiveRule, type FaultHandle, type FaultRule, type FaultTarget } from './fault-rule.js';
import { Lifetime } from './lifetime.js';

export type { Fault, FaultHandle, FaultOperation, FaultRule } from './fault-rule.js';

export interface FaultyDeviceOptions {
  /** Measures `delayMs`. */
  clock: Clock;
}

/**
 * A device whose requests fail, wait or tear as rules say, and else do what the device inside does. It owns the device
 * inside and closes it. A request that several rules match first waits for all of their delays and hangs and then fails
 * as the first rule says that makes it fail.
 */
export class FaultyDevice implements BlockDevice {
  readonly name: string;
  readonly sizeBytes: number;
  /** Nothing is added and nothing taken away: rules are about single requests. */
  readonly capabilities: Capabilities;
  /** Reads must come through here to meet their faults. */
  readonly nativeSource = undefined;
  readonly #inner: BlockDevice;
  readonly #clock: Clock;
  readonly #rules = new Set<ActiveRule>();
  readonly #lifetime = new Lifetime(this);

  constructor(inner: BlockDevice, { clock }: FaultyDeviceOptions) {
    this.#inner = inner;
    this.#clock = clock;
    this.name = inner.name;
    this.sizeBytes = inner.sizeBytes;
    this.capabilities = inner.capabilities;
  }

  /**
   * Puts a rule into force for the requests that are sent from now on.
   *
   * @throws CofferdamError BAD_ARGUMENT
   */
  inject(rule: FaultRule): FaultHandle {
    const active = new ActiveRule(this.name, rule, () => this.#rules.delete(active));
    this.#rules.add(active);
    return active;
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    using _request = this.#lifetime.admit('read', offsetBytes, into.byteLength);
    await this.#meetFaults({ operation: 'read', offsetBytes, lengthBytes: into.byteLength });
    await this.#inner.read(offsetBytes, into);
  }

  async write(offsetBytes: number, bytes: Uint8Array, options?: WriteOptions): Promise<void> {
    using _request = this.#lifetime.admit('write', offsetBytes, bytes.byteLength);
    const request: FaultTarget = { operation: 'write', offsetBytes, lengthBytes: bytes.byteLength };
    await this.#meetFaults(request, (lengthBytes) =>
      this.#inner.write(offsetBytes, bytes.subarray(0, lengthBytes), options),
    );
    await this.#inner.write(offsetBytes, bytes, options);
  }

  async flush(): Promise<void> {
    using _request = this.#lifetime.admitFlush();
    await this.#meetFaults({ operation: 'flush', offsetBytes: 0, lengthBytes: 0 });
    await this.#inner.flush();
  }

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    using _request = this.#lifetime.admit('trim', offsetBytes, lengthBytes);
    await this.#meetFaults({ operation: 'trim', offsetBytes, lengthBytes });
    await this.#inner.trim(offsetBytes, lengthBytes);
  }

  async writeZeroes(offsetBytes: number, lengthBytes: number, options?: WriteZeroesOptions): Promise<void> {
    using _request = this.#lifetime.admit('write zeroes', offsetBytes, lengthBytes);
    await this.#meetFaults({ operation: 'writeZeroes', offsetBytes, lengthBytes }, (tornBytes) =>
      this.#inner.writeZeroes(offsetBytes, tornBytes, options),
    );
    await this.#inner.writeZeroes(offsetBytes, lengthBytes, options);
  }

  async allocation(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    using _request = this.#lifetime.admit('allocation', offsetBytes, lengthBytes);
    return await this.#inner.allocation(offsetBytes, lengthBytes);
  }

  /** Releases every rule, so that nothing hangs on, and closes the device inside. */
  close(): Promise<void> {
    for (const rule of this.#rules) rule.release();
    return this.#lifetime.close(() => this.#inner.close());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Returns when the request may go on; throws when a rule makes it fail. */
  async #meetFaults(request: FaultTarget, tear?: (lengthBytes: number) => Promise<void>): Promise<void> {
    // Which rules match is decided in the order in which requests are sent, before anything waits.
    const matching = [...this.#rules].filter((rule) => rule.takes(request));
    for (const rule of matching) {
      if ('delayMs' in rule.fault) await sleep(this.#clock, rule.fault.delayMs);
      if ('hang' in rule.fault) await rule.released;
    }
    for (const { fault } of matching) {
      if ('error' in fault) throw this.#injected(fault.error, request, 'failed');
      if ('tornWrite' in fault && tear) {
        const start = Math.floor(request.offsetBytes / SECTOR_BYTES) * SECTOR_BYTES;
        const end = start + fault.tornWrite.sectors * SECTOR_BYTES;
        const lengthBytes = Math.min(request.lengthBytes, Math.max(0, end - request.offsetBytes));
        await tear(lengthBytes);
        throw this.#injected('INJECTED_FAULT', request, `was torn after ${lengthBytes} bytes`);
      }
    }
  }

  #injected(code: ErrorCode, request: FaultTarget, what: string): CofferdamError {
    const { operation, offsetBytes, lengthBytes } = request;
    const place = operation === 'flush' ? '' : ` of ${lengthBytes} bytes at ${offsetBytes}`;
    return new CofferdamError(code, `${this.name}: ${operation}${place} ${what}: an injected fault`, {
      device: this.name,
      ...(operation === 'flush' ? {} : { offsetBytes, lengthBytes }),
    });
  }
}
