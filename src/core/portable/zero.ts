/** Zeros to compare with and to write. */
export const zeros = Buffer.alloc(256 * 1024);

export function isZero(bytes: Uint8Array): boolean {
  // Most blocks that hold data show it at once.
  if (bytes.length > 0 && bytes[0] !== 0) return false;
  for (let start = 0; start < bytes.length; start += zeros.length) {
    const part = bytes.subarray(start, start + zeros.length);
    if (Buffer.compare(part, zeros.subarray(0, part.length)) !== 0) return false;
  }
  return true;
}
