import { fstatSync, readdirSync, writeSync, type Stats } from 'node:fs';
import { CofferdamError, messageOf } from '../runtime/errors.js';
import { wholeNumber } from './arguments.js';

/**
 * What was open when the program began, by number. Whatever this program opens later may get any number that was free
 * then, a served disk for instance; so this module is the first that is loaded.
 */
const openAtStart: ReadonlyMap<number, Stats> = openDescriptors();

/**
 * The number of a descriptor that whoever started the program handed to it, to be written to; for commander's `argParser`.
 *
 * @throws CofferdamError BAD_ARGUMENT
 */
export function inheritedDescriptor(option: string): (text: string) => number {
  const parse = wholeNumber(option, 1);
  return (text) => {
    const fd = parse(text);
    const stats = openAtStart.get(fd);
    if (!stats || isOfNode(fd, stats)) {
      throw new CofferdamError(
        'BAD_ARGUMENT',
        `${option} ${fd}: no descriptor ${fd} was handed to the program; open it in the shell that starts it, as ${fd}>FILE`,
      );
    }
    const refusal = refusalOfWrites(fd);
    if (refusal === undefined) return fd;
    throw new CofferdamError(
      'BAD_ARGUMENT',
      `${option} ${fd}: descriptor ${fd} cannot be written to (${refusal}); open it for writing, as ${fd}>FILE`,
    );
  };
}

function openDescriptors(): Map<number, Stats> {
  const found = new Map<number, Stats>();
  for (const fd of candidates()) {
    try {
      found.set(fd, fstatSync(fd));
    } catch {
      // The descriptor that listed them is closed again.
    }
  }
  return found;
}

/** Where the system does not list them, as without /proc, those that a shell can open are tried one by one. */
function candidates(): number[] {
  try {
    return readdirSync('/dev/fd').map(Number);
  } catch {
    return [...Array(256).keys()];
  }
}

/** Node has opened some itself by now: what is of no type that a shell can open, and pipes to itself. */
function isOfNode(fd: number, stats: Stats): boolean {
  if (fd <= 2) return false;
  if (stats.isFIFO()) {
    return [...openAtStart].some(
      ([other, { dev, ino }]) =>
        other > 2 && dev === stats.dev && ino === stats.ino && refusalOfWrites(other) !== undefined,
    );
  }
  return !(stats.isFile() || stats.isSocket() || stats.isCharacterDevice());
}

/** Why a descriptor cannot be written to, if it cannot: writing nothing tells. */
function refusalOfWrites(fd: number): string | undefined {
  try {
    writeSync(fd, new Uint8Array(0));
    return undefined;
  } catch (error) {
    return messageOf(error);
  }
}
