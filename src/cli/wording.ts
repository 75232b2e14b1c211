import type { Consistency } from '../backup/image/record.js';

/** `1 device`, `12,034 devices`. */
export function count(number: number, noun: string): string {
  return `${number.toLocaleString('en')} ${noun}${number === 1 ? '' : 's'}`;
}

/** What a consistency means, in one sentence. */
export function consistencyInWords(consistency: Consistency, deviceCount: number): string {
  if (consistency === 'group') {
    return deviceCount === 1
      ? 'crash-consistent: the device is as of one instant'
      : 'crash-consistent: all devices are as of one instant';
  }
  return deviceCount === 1
    ? 'crash-consistent: the device is as of one instant'
    : 'NOT consistent as a group: each device alone is crash-consistent, but they are as of different instants';
}

/** The same in a word, for tables. */
export function consistencyInShort(consistency: Consistency): string {
  return consistency === 'group' ? 'group' : 'device only';
}

/** `2026-04-01 12:30:05 UTC` of an ISO 8601 time in UTC. */
export function timeInWords(iso: string): string {
  return iso.replace('T', ' ').replace(/(\.\d+)?Z$/, ' UTC');
}

/** Enough of a fingerprint to tell generations apart by eye. */
export function shortFingerprint(fingerprint: string): string {
  return fingerprint.slice(0, 12);
}

/** `bytes 4096-8191`. */
export function byteRange(offsetBytes: number, lengthBytes: number): string {
  return `bytes ${offsetBytes}-${offsetBytes + lengthBytes - 1}`;
}

/** Words as a shell reads them back. */
export function commandLine(words: readonly string[]): string {
  return words
    .map((word) => (/^[\w./=:,@+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`))
    .join(' ');
}
