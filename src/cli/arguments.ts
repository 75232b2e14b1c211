import { basename, extname } from 'node:path';
import { isBlockSize } from '../backup/image/record.js';
import { CofferdamError } from '../runtime/errors.js';
import { parseDurationMs, parseSize } from '../runtime/sizes.js';
import { isNbdUri, parseNbdUri } from '../nbd/uri.js';
import { checkDeviceId, deviceIdPattern, deviceIdRule } from '../devices/device-id.js';

/** A device or file that the user named, and the ID it goes by. */
export interface NamedPath {
  id: string;
  path: string;
}

/** How a command line says how many of something; for commander's `argParser`. */
export function wholeNumber(
  option: string,
  from: number,
  to = Number.MAX_SAFE_INTEGER,
): (text: string) => number {
  const range = to === Number.MAX_SAFE_INTEGER ? `from ${from} up` : `from ${from} to ${to}`;
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= from && value <= to) return value;
    throw new CofferdamError('BAD_ARGUMENT', `${option}: "${text}" is not a whole number ${range}`);
  };
}

/** A size in bytes above 0, such as 64KiB. */
export function size(option: string): (text: string) => number {
  return (text) => aboveZero(parseSize(text, option), option, text);
}

/** A size that blocks of a backup may have, in bytes. */
export function blockSize(option: string): (text: string) => number {
  return (text) => {
    const bytes = parseSize(text, option);
    if (isBlockSize(bytes)) return bytes;
    throw new CofferdamError(
      'BAD_ARGUMENT',
      `${option}: "${text}" must be a power of two from 4KiB to 4MiB, such as 64KiB`,
    );
  };
}

/** A duration in ms above 0, such as 250ms or 1s. */
export function duration(option: string): (text: string) => number {
  return (text) => aboveZero(parseDurationMs(text, option), option, text);
}

function aboveZero(value: number, option: string, text: string): number {
  if (value > 0) return value;
  throw new CofferdamError('BAD_ARGUMENT', `${option}: "${text}" must be above 0`);
}

/** A path, an address or anything else that is not nothing: where a variable of a script was empty, say so. */
export function filled(option: string): (text: string) => string {
  return (text) => {
    if (text !== '') return text;
    throw new CofferdamError('BAD_ARGUMENT', `${option}: is empty; give a name`);
  };
}

/** The number of a generation, or one of some words. */
export function generation<Word extends string>(...words: Word[]): (text: string) => number | Word {
  return (text) => {
    const word = words.find((candidate) => candidate === text);
    if (word !== undefined) return word;
    if (/^[1-9]\d*$/.test(text) && Number.isSafeInteger(Number(text))) return Number(text);
    throw new CofferdamError(
      'BAD_ARGUMENT',
      `--generation: "${text}" is neither a number from 1 up nor ${words.join(' nor ')}`,
    );
  };
}

/**
 * `[ID=]PATH`. What stands before the first `=` is an ID if it can be one; write `./a=b.img` for a path that looks like
 * that. Without an ID it is the file's base name without extension.
 *
 * @throws CofferdamError BAD_ARGUMENT
 */
export function namedPath(option: string, text: string): NamedPath {
  const [, id, rest] = /^([^=]*)=(.*)$/s.exec(text) ?? [];
  if (id !== undefined && rest !== undefined && deviceIdPattern.test(id)) {
    return { id, path: nonEmpty(option, text, rest) };
  }
  const path = nonEmpty(option, text, text);
  const fallback = basename(path, extname(path));
  if (deviceIdPattern.test(fallback)) return { id: fallback, path };
  const what =
    id === undefined || /[./]/.test(id)
      ? `the name of ${text} cannot be a device ID; give one yourself, as ID=PATH`
      : `${JSON.stringify(id)} cannot be a device ID`;
  throw new CofferdamError('BAD_ARGUMENT', `${option}: ${what}: ${deviceIdRule}`);
}

/**
 * `ID=PATH`.
 *
 * @throws CofferdamError BAD_ARGUMENT
 */
export function idAndPath(option: string, text: string): NamedPath {
  const [, id, path] = /^([^=]*)=(.*)$/s.exec(text) ?? [];
  if (id === undefined || path === undefined) {
    throw new CofferdamError('BAD_ARGUMENT', `${option}: "${text}" must be ID=PATH`);
  }
  return { id: checkDeviceId(id), path: nonEmpty(option, text, path) };
}

/**
 * `[ID=]NBD-URI`. Without an ID it is the name of the export.
 *
 * @throws CofferdamError BAD_ARGUMENT
 */
export function namedUri(option: string, text: string): NamedPath {
  const { id, path } = isNbdUri(text)
    ? { id: parseNbdUri(text).exportName, path: text }
    : idAndPath(option, text);
  parseNbdUri(path);
  if (deviceIdPattern.test(id)) return { id, path };
  throw new CofferdamError(
    'BAD_ARGUMENT',
    `${option}: the export of ${text} has no name that can be a device ID; give one yourself, as ID=URI`,
  );
}

/**
 * A parser for an option that may be given several times, with several paths each.
 *
 * @param parse reads one of them.
 */
export function paths(
  option: string,
  parse: typeof namedPath,
): (text: string, previous: readonly NamedPath[] | undefined) => readonly NamedPath[] {
  return (text, previous = []) => {
    const next = parse(option, text);
    const other = previous.find(({ id }) => id === next.id);
    if (!other) return [...previous, next];
    throw new CofferdamError(
      'DUPLICATE_DEVICE',
      `${other.path} and ${next.path} both have the ID ${next.id}; tell them apart with ID=PATH`,
      { device: next.id },
    );
  };
}

function nonEmpty(option: string, text: string, path: string): string {
  if (path !== '') return path;
  throw new CofferdamError('BAD_ARGUMENT', `${option}: "${text}" names no file`);
}

type Given<T> = { [Key in keyof T]?: Exclude<T[Key], undefined> };

/** The options that were given, without those that are undefined. */
export function given<T extends object>(options: T): Given<T> {
  // Object.entries loses the types of the members, which stay as they are.
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Given<T>;
}
