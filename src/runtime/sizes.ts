import { CofferdamError } from './errors.js';

export const KiB = 1024;
export const MiB = 1024 * KiB;
export const GiB = 1024 * MiB;

/** The unit in which a power cut tears writes, and in which consistency is judged. */
export const SECTOR_BYTES = 512;

const units: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  K: KiB,
  KIB: KiB,
  KB: 1e3,
  M: MiB,
  MIB: MiB,
  MB: 1e6,
  G: GiB,
  GIB: GiB,
  GB: 1e9,
  T: 1024 * GiB,
  TIB: 1024 * GiB,
  TB: 1e12,
};

/**
 * Reads `64KiB`, `1.5G`, `200MiB/s` or `4096` as a number of bytes. A bare K, M, G or T is binary, KB, MB, GB and TB
 * are decimal.
 *
 * @param what names the value in the error.
 * @throws CofferdamError BAD_ARGUMENT
 */
export function parseSize(text: string | number, what: string): number {
  if (typeof text === 'number') return checkedBytes(text, what);
  const match = /^\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*(?:\/s)?\s*$/.exec(text);
  const unit = units[(match?.[2] ?? '?').toUpperCase()];
  if (!match || unit === undefined) {
    throw new CofferdamError(
      'BAD_ARGUMENT',
      `${what}: "${text}" is not a size; write for example 64KiB or 1.5GiB`,
    );
  }
  return checkedBytes(Math.round(Number(match[1]) * unit), what);
}

/**
 * Reads `250ms`, `1s`, `1.5m` or a bare number of milliseconds.
 *
 * @throws CofferdamError BAD_ARGUMENT
 */
export function parseDurationMs(text: string | number, what: string): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*(us|ms|s|m|min|h)?\s*$/.exec(String(text));
  if (!match) {
    throw new CofferdamError(
      'BAD_ARGUMENT',
      `${what}: "${text}" is not a duration; write for example 250ms or 1s`,
    );
  }
  const factor = { us: 1e-3, ms: 1, s: 1e3, m: 6e4, min: 6e4, h: 36e5 }[match[2] ?? 'ms'] ?? 1;
  return Number(match[1]) * factor;
}

/**
 * Returns `value` if it can be an offset or length in bytes: a whole number from 0 to 2^53-1.
 *
 * @throws CofferdamError BAD_ARGUMENT
 */
export function checkedBytes(value: number, what: string): number {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new CofferdamError(
      'BAD_ARGUMENT',
      `${what}: ${value} is not a whole number of bytes from 0 to 2^53-1`,
    );
  }
  return value;
}

/** `value` rounded up to a multiple of `step`. */
export function roundUp(value: number, step: number): number {
  return Math.ceil(value / step) * step;
}

/** `10.3 MiB`, for people. */
export function formatBytes(bytes: number): string {
  const names = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = bytes;
  let index = 0;
  while (value >= 1024 && index < names.length - 1) {
    value /= 1024;
    index++;
  }
  return `${index === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${names[index]}`;
}

/** `85 us`, `3.2 ms`, `41 s`, `3 m 20 s`, for people. */
export function formatDuration(ms: number): string {
  if (ms < 1) return `${Math.round(ms * 1000)} us`;
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  return `${Math.floor(seconds / 60)} m ${Math.round(seconds % 60)} s`;
}
