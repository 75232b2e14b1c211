/**
 * One bit per block in memory that all threads share. Bit b is bit (b mod 32) of 32-bit word floor(b / 32), in the
 * machine's byte order; native code reads the same words. Every access is sequentially consistent.
 */
export class SharedBitmap {
  readonly words: Int32Array<SharedArrayBuffer>;

  constructor(
    readonly bitCount: number,
    words?: Int32Array<SharedArrayBuffer>,
  ) {
    this.words = words ?? new Int32Array(new SharedArrayBuffer(Math.ceil(bitCount / 32) * 4));
  }

  has(bit: number): boolean {
    return (Atomics.load(this.words, wordOf(bit)) & (1 << (bit & 31))) !== 0;
  }

  /** Sets the bit and says whether it was clear before. */
  add(bit: number): boolean {
    const mask = 1 << (bit & 31);
    return (Atomics.or(this.words, wordOf(bit), mask) & mask) === 0;
  }

  /** Sets every bit in [from, to). */
  addRange(from: number, to: number): void {
    let bit = from;
    while (bit < to) {
      const end = Math.min(to, (wordOf(bit) + 1) * 32);
      const count = end - bit;
      const mask = count === 32 ? -1 : ((1 << count) - 1) << (bit & 31);
      Atomics.or(this.words, wordOf(bit), mask);
      bit = end;
    }
  }

  /** How many bits are set. */
  count(): number {
    let total = 0;
    for (let i = 0; i < this.words.length; i++) {
      let v = Atomics.load(this.words, i);
      v -= (v >>> 1) & 0x55555555;
      v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
      total += Math.imul((v + (v >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
    }
    return total;
  }

  /** A bitmap with every bit of this one flipped. */
  inverted(): SharedBitmap {
    const result = new SharedBitmap(this.bitCount);
    result.addRange(0, this.bitCount);
    for (let i = 0; i < this.words.length; i++) Atomics.and(result.words, i, ~Atomics.load(this.words, i));
    return result;
  }
}

/** Not a shift, which would cut a number off at 32 bits: large devices have more blocks than that. */
function wordOf(bit: number): number {
  return Math.floor(bit / 32);
}
