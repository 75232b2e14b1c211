import { CofferdamError, type ErrorCode } from '../runtime/errors.js';
import { checkedBytes } from '../runtime/sizes.js';

export type FaultOperation = 'read' | 'write' | 'flush' | 'trim' | 'writeZeroes';

/** What happens to a request. */
export type Fault =
  /** It fails with this code, for example INJECTED_FAULT, and nothing is done. */
  | { error: ErrorCode }
  /** It goes on after this time. */
  | { delayMs: number }
  /** Only its first sectors are written, then it fails with INJECTED_FAULT. For `write` and `writeZeroes` alone. */
  | { tornWrite: { sectors: number } }
  /** It goes on when the rule is released or the device is closed. */
  | { hang: true };

/** Which requests a fault happens to. Requests of zero bytes and requests that are refused do not count. */
export interface FaultRule {
  operation: FaultOperation | 'any';
  /** Only requests that touch this range. A flush has no range, so it touches none. Absent: all requests. */
  range?: { offsetBytes: number; lengthBytes: number };
  /** From the nth matching request on, counted from 1. Absent: from the first. */
  nth?: number;
  /** To how many requests it happens. Absent: to one when `nth` is given, else to every one. */
  count?: number;
  /** Default `{ error: 'INJECTED_FAULT' }`. */
  fault?: Fault;
}

/** A rule in force. Disposing of it is the same as `release`. */
export interface FaultHandle extends Disposable {
  /** To how many requests the fault has happened. */
  readonly hits: number;
  /** Takes the rule out of force and lets what hangs on it go on. */
  release(): void;
}

/** A request as rules see it. */
export interface FaultTarget {
  operation: FaultOperation;
  offsetBytes: number;
  lengthBytes: number;
}

/** A rule with its counts. */
export class ActiveRule implements FaultHandle {
  readonly fault: Fault;
  readonly released: Promise<void>;
  hits = 0;
  #matches = 0;
  readonly #rule: FaultRule;
  readonly #first: number;
  readonly #count: number;
  readonly #onRelease: () => void;
  #release = (): void => {};

  constructor(device: string, rule: FaultRule, onRelease: () => void) {
    this.#rule = rule;
    this.fault = rule.fault ?? { error: 'INJECTED_FAULT' };
    this.#first = rule.nth ?? 1;
    this.#count = rule.count ?? (rule.nth === undefined ? Infinity : 1);
    this.#onRelease = onRelease;
    this.released = new Promise((resolve) => {
      this.#release = resolve;
    });
    this.#check(device);
  }

  /** Whether the fault happens to this request; counts it. */
  takes(request: FaultTarget): boolean {
    if (!this.#matchesRequest(request)) return false;
    this.#matches++;
    if (this.#matches < this.#first || this.hits >= this.#count) return false;
    this.hits++;
    return true;
  }

  release(): void {
    this.#onRelease();
    this.#release();
  }

  [Symbol.dispose](): void {
    this.release();
  }

  #matchesRequest({ operation, offsetBytes, lengthBytes }: FaultTarget): boolean {
    if (this.#rule.operation !== 'any' && this.#rule.operation !== operation) return false;
    if ('tornWrite' in this.fault && operation !== 'write' && operation !== 'writeZeroes') return false;
    if (operation !== 'flush' && lengthBytes === 0) return false;
    const { range } = this.#rule;
    if (!range) return true;
    return (
      operation !== 'flush' &&
      offsetBytes < range.offsetBytes + range.lengthBytes &&
      range.offsetBytes < offsetBytes + lengthBytes
    );
  }

  #check(device: string): void {
    const { operation, range, nth = 1, count = 1 } = this.#rule;
    const sectors = 'tornWrite' in this.fault ? this.fault.tornWrite.sectors : undefined;
    const bad = (what: string): CofferdamError =>
      new CofferdamError('BAD_ARGUMENT', `${device}: fault rule: ${what}`, { device });
    if (sectors !== undefined && ['read', 'flush', 'trim'].includes(operation)) {
      throw bad(`a ${operation} cannot be torn; use write, writeZeroes or any`);
    }
    if (
      ![nth, count, sectors ?? 1].every((value) => Number.isSafeInteger(value) && value >= 0) ||
      nth === 0
    ) {
      throw bad('count and sectors are whole numbers from 0, nth from 1');
    }
    if ('delayMs' in this.fault && !(this.fault.delayMs >= 0)) throw bad('delayMs is a number from 0');
    if (range) {
      checkedBytes(range.offsetBytes, `${device}: fault rule: offset of the range`);
      checkedBytes(range.lengthBytes, `${device}: fault rule: length of the range`);
    }
  }
}
