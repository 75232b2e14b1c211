import type { Batch } from '../core/core.js';
import { CofferdamError } from '../runtime/errors.js';
import { checkRequest, type BlockDevice, type Operation } from './block-device.js';

/**
 * The way into a device: every request is checked and counted here, so that `close` can wait for those in flight and
 * refuse what comes after it.
 *
 * Invariants:
 * 1. Between `admit` and the disposal of what it returned, the device's `release` has not begun.
 * 2. `release` runs at most once.
 */
export class Lifetime {
  readonly #device: BlockDevice;
  #inFlight = 0;
  #closing: Promise<void> | undefined;
  readonly #whenIdle: (() => void)[] = [];
  readonly #admission: Disposable = { [Symbol.dispose]: () => this.#finish() };

  constructor(device: BlockDevice) {
    this.#device = device;
  }

  /**
   * Admits a request; the caller disposes of the result when it has answered.
   *
   * @throws CofferdamError BAD_ARGUMENT, OUT_OF_RANGE, READ_ONLY, DEVICE_CLOSED
   */
  admit(operation: Operation, offsetBytes: number, lengthBytes: number): Disposable {
    checkRequest(this.#device, operation, offsetBytes, lengthBytes);
    return this.#count();
  }

  /** Admits a flush, which has no range and which a read-only device takes too. */
  admitFlush(): Disposable {
    return this.#count();
  }

  /** Admits requests that are answered together; the caller disposes of the result when they are. */
  admitBatch(operation: Operation, ...batches: readonly Batch[]): Disposable {
    for (const { places } of batches) {
      for (let i = 0; i < places.length; i += 3) {
        checkRequest(this.#device, operation, places[i] ?? NaN, places[i + 2] ?? NaN);
      }
    }
    return this.#count();
  }

  /** Resolves when no request is in flight. Others may have been admitted by then, unless the caller prevents it. */
  idle(): Promise<void> {
    if (this.#inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => this.#whenIdle.push(resolve));
  }

  /** Refuses new requests, waits for those in flight and then runs `release`, the first time it is called. */
  close(release: () => Promise<void>): Promise<void> {
    this.#closing ??= this.idle().then(release);
    return this.#closing;
  }

  /** @throws CofferdamError DEVICE_CLOSED */
  assertOpen(): void {
    if (this.#closing === undefined) return;
    const { name } = this.#device;
    throw new CofferdamError('DEVICE_CLOSED', `${name}: closed; open it again to use it`, { device: name });
  }

  #count(): Disposable {
    this.assertOpen();
    this.#inFlight++;
    return this.#admission;
  }

  #finish(): void {
    this.#inFlight--;
    if (this.#inFlight > 0) return;
    for (const resolve of this.#whenIdle.splice(0)) resolve();
  }
}
