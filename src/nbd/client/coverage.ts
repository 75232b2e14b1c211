/**
 * Which bytes of a reply have come. Servers send them in order, so a mark per byte is kept only for a reply that comes
 * out of order; it takes no more memory than the reply itself.
 */
export class Coverage {
  readonly #lengthBytes: number;
  /** While all came in order: where the next byte is expected. */
  #endBytes = 0;
  #coveredBytes = 0;
  #marks: Uint8Array | undefined;

  constructor(lengthBytes: number) {
    this.#lengthBytes = lengthBytes;
  }

  get isComplete(): boolean {
    return this.#coveredBytes === this.#lengthBytes;
  }

  /** @returns false if any byte of the range, which lies within the reply, has come before. */
  add(atBytes: number, lengthBytes: number): boolean {
    if (!this.#marks && atBytes === this.#endBytes) {
      this.#endBytes += lengthBytes;
    } else {
      this.#marks ??= new Uint8Array(this.#lengthBytes).fill(1, 0, this.#endBytes);
      const range = this.#marks.subarray(atBytes, atBytes + lengthBytes);
      if (range.includes(1)) return false;
      range.fill(1);
    }
    this.#coveredBytes += lengthBytes;
    return true;
  }
}
