import { expect } from 'vitest';
import type { HashAlgorithm } from '#src/core/core';
import { Random } from '#src/runtime/random';
import { testSeed } from '../support/seed.js';
import { describeCores } from './cores.js';

/** The buffer of xxHash's own sanity checks: the top bytes of a multiplicative sequence. */
function xxhashSanityBuffer(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let generator = 2654435761n;
  for (let i = 0; i < length; i++) {
    bytes[i] = Number(generator >> 56n);
    generator = (generator * 11400714785074694797n) & 0xffff_ffff_ffff_ffffn;
  }
  return bytes;
}

/** The input of BLAKE3's official test vectors: 0, 1, ..., 250, 0, 1, ... */
function blake3Input(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => i % 251);
}

const xxh64Vectors: readonly (readonly [number, string])[] = [
  [0, 'ef46db3751d8e999'],
  [1, 'e934a84adb052768'],
  [4, '9136a0dca57457ee'],
  [14, '8282dcc4994e35c8'],
  [222, 'b641ae8cb691c174'],
];

const blake3Vectors: readonly (readonly [number, string])[] = [
  [0, 'af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262'],
  [1, '2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213'],
  [1023, '10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11'],
  [1024, '42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7'],
  [1025, 'd00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444'],
  [2048, 'e776b6028c7cd22a4d0ba182a8bf62205d2ef576467e838ed6f2529b85fba24a'],
  [102400, 'bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085'],
];

/** The same bytes at an odd address of shared memory. */
function inSharedMemory(bytes: Uint8Array): Uint8Array {
  const shared = new Uint8Array(new SharedArrayBuffer(bytes.length + 3), 3);
  shared.set(bytes);
  return shared;
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

describeCores((testCore) => {
  testCore('xxh64 gives the values of its own sanity checks, in canonical order', (core) => {
    for (const [length, expected] of xxh64Vectors) {
      expect(hex(core.hash('xxh64', xxhashSanityBuffer(length)))).toBe(expected);
    }
  });

  testCore('blake3 gives the values of its official test vectors', (core) => {
    for (const [length, expected] of blake3Vectors) {
      expect(hex(core.hash('blake3', blake3Input(length)))).toBe(expected);
    }
  });

  testCore('hashes bytes in shared memory like others', (core) => {
    for (const [length, expected] of blake3Vectors) {
      expect(hex(core.hash('blake3', inSharedMemory(blake3Input(length))))).toBe(expected);
    }
    for (const [length, expected] of xxh64Vectors) {
      expect(hex(core.hash('xxh64', inSharedMemory(xxhashSanityBuffer(length))))).toBe(expected);
    }
  });

  testCore('hashes the largest block and then a small one', (core) => {
    for (const algorithm of ['xxh64', 'blake3'] as const) {
      const small = hex(core.hash(algorithm, blake3Input(5)));
      const large = new Uint8Array(4 * 1024 * 1024).fill(7);
      const first = hex(core.hash(algorithm, large));
      expect(hex(core.hash(algorithm, large))).toBe(first);
      expect(hex(core.hash(algorithm, blake3Input(5)))).toBe(small);
    }
  });

  testCore('an answer is not changed by the next one', (core) => {
    const first = core.hash('blake3', blake3Input(1));
    core.hash('blake3', blake3Input(2));
    expect(hex(first)).toBe(blake3Vectors[1]?.[1]);
  });

  testCore('refuses an algorithm that does not exist', (core) => {
    expect(() => core.hash('md5' as HashAlgorithm, new Uint8Array(1))).toThrow(
      expect.objectContaining({ code: 'BAD_ARGUMENT' }),
    );
  });

  testCore('the zero test sees a single bit at any place, length and alignment', (core) => {
    const random = new Random(testSeed());
    const memory = new Uint8Array(new SharedArrayBuffer(300_000));
    const lengths = [
      0, 1, 2, 7, 8, 31, 32, 33, 255, 256, 257, 511, 4095, 4096, 4097, 65536, 262_144, 262_145,
    ];
    for (const length of lengths) {
      for (let attempt = 0; attempt < 20; attempt++) {
        const start = random.below(64);
        const bytes = memory.subarray(start, start + length);
        // What lies around the bytes does not count.
        if (start > 0) memory[start - 1] = 1;
        memory[start + length] = 1;
        expect(core.isZero(bytes)).toBe(true);
        if (length > 0) {
          const place = random.pick([0, length - 1, random.below(length)]);
          bytes[place] = 1 << random.below(8);
          expect(core.isZero(bytes), `a bit at ${place} of ${length}, from ${start} on`).toBe(false);
        }
        memory.fill(0);
      }
    }
  });
});
