import { closeSync, createReadStream, openSync, writeFileSync } from 'node:fs';
import { z } from 'zod';
import { CofferdamError, errnoOf, invariant, messageOf } from '../runtime/errors.js';
import { KiB, MiB } from '../runtime/sizes.js';
import { History, type HistoryEvent, type HistoryHeader } from './history.js';

/*
 * A history as JSON Lines: the header, then one line per event in the order of their numbers, each ending in a newline.
 *
 *     {"format":"cofferdam-history","version":1,"run":8112,"seed":7,"initialContent":"zeros",
 *      "devices":[{"id":"a","index":0,"areaOffsetBytes":0,"areaLengthBytes":65536}]}       (in one line)
 *     {"event":1,"type":"invoke","write":0,"writer":3,"device":0,"sector":17,"sectors":4}
 *     {"event":2,"type":"copy-requested","copy":0}
 *     {"event":3,"type":"ack","write":0}
 *     {"event":4,"type":"copy-completed","copy":0}
 *
 * Events are numbered from 1, writes and copies from 0, without gaps, so a lost line is noticed. What a killed writer
 * leaves is a prefix. It can be judged as it stands: what is missing happened after all that is there, so after the
 * completion of every copy that can be judged.
 */
const FORMAT = 'cofferdam-history';
const VERSION = 1;
const LONGEST_LINE = MiB;
const BUFFER_LENGTH = 64 * KiB;

const count = z.int().nonnegative();

const headerSchema = z.strictObject({
  format: z.literal(FORMAT),
  version: z.literal(VERSION),
  run: count,
  seed: z.int(),
  initialContent: z.literal('zeros'),
  devices: z.array(
    z.strictObject({ id: z.string(), index: count, areaOffsetBytes: count, areaLengthBytes: count }),
  ),
});

const eventSchema = z.discriminatedUnion('type', [
  z.strictObject({
    event: count,
    type: z.literal('invoke'),
    write: count,
    writer: count,
    device: count,
    sector: count,
    sectors: count,
  }),
  z.strictObject({ event: count, type: z.literal('ack'), write: count }),
  z.strictObject({ event: count, type: z.enum(['copy-requested', 'copy-completed']), copy: count }),
]);

/** A history that is also written to a file while it is recorded. */
export class HistoryFile implements Disposable {
  readonly history: History;
  #fd: number | undefined;
  #pending = '';

  /**
   * Creates the file, or empties it if it exists.
   *
   * @throws CofferdamError DEVICE_IO, and what {@link History} throws for a bad header. Recording an event can throw
   * DEVICE_IO or DEVICE_FULL as well.
   */
  constructor(
    readonly path: string,
    header: HistoryHeader,
  ) {
    this.history = new History(header, (event) => this.#append(event));
    this.#fd = this.#onDisk(() => openSync(path, 'w'));
    const devices = header.areas.map(({ id, areaOffsetBytes, areaLengthBytes }, index) => ({
      id,
      index,
      areaOffsetBytes,
      areaLengthBytes,
    }));
    const { run, seed } = header;
    this.#pending = `${JSON.stringify({ format: FORMAT, version: VERSION, run, seed, initialContent: 'zeros', devices })}\n`;
    this.flush();
  }

  #append(event: HistoryEvent): void {
    this.#pending += `${JSON.stringify(event)}\n`;
    // With the marks of a copy on disk, the copy can be judged while the workload still runs.
    const isMark = event.type === 'copy-requested' || event.type === 'copy-completed';
    if (isMark || this.#pending.length >= BUFFER_LENGTH) this.flush();
  }

  /**
   * Hands what was recorded so far to the operating system.
   *
   * @throws CofferdamError DEVICE_IO, DEVICE_FULL
   */
  flush(): void {
    const fd = this.#fd;
    invariant(fd !== undefined, `${this.path} was closed, but its history still grows`);
    // Synchronous, so that the lines keep their order and memory stays bounded without holding up the writers.
    const lines = this.#pending;
    // What failed once is not tried again: the failure was thrown, and the file may hold a part of it already.
    this.#pending = '';
    if (lines !== '') this.#onDisk(() => writeFileSync(fd, lines));
  }

  [Symbol.dispose](): void {
    if (this.#fd === undefined) return;
    try {
      this.flush();
    } finally {
      closeSync(this.#fd);
      this.#fd = undefined;
    }
  }

  #onDisk<T>(action: () => T): T {
    try {
      return action();
    } catch (error) {
      const code = errnoOf(error) === 'ENOSPC' ? 'DEVICE_FULL' : 'DEVICE_IO';
      throw new CofferdamError(code, `${this.path}: the history cannot be written: ${messageOf(error)}`, {
        device: this.path,
        cause: error,
      });
    }
  }
}

export interface ReadHistory {
  history: History;
  /** Set if the last line was cut off, as a killed writer leaves it: its number, from 1. That line was left out. */
  truncatedAtLine: number | undefined;
}

/** @throws CofferdamError BAD_HISTORY, with the number of the line. */
export async function readHistory(path: string): Promise<ReadHistory> {
  let history: History | undefined;
  let number = 0;
  for await (const { text, terminated } of linesOf(path)) {
    number++;
    try {
      const value = parseJson(text);
      if (value === undefined && history && !terminated) return { history, truncatedAtLine: number };
      if (value === undefined) throw new Error('this is not JSON; the file is damaged or not a history');
      if (history) replay(history, value);
      else history = new History(readHeader(value));
    } catch (error) {
      throw badHistory(path, `line ${number}: ${messageOf(error)}`, error);
    }
  }
  if (!history) throw badHistory(path, 'the file is empty');
  return { history, truncatedAtLine: undefined };
}

function badHistory(path: string, what: string, cause?: unknown): CofferdamError {
  return new CofferdamError('BAD_HISTORY', `${path}: ${what}`, { device: path, cause });
}

function readHeader(value: unknown): HistoryHeader {
  const { run, seed, devices } = checked(headerSchema, value);
  devices.forEach(({ id, index }, position) => {
    if (index !== position)
      throw new Error(`device ${id} has index ${index} but stands at position ${position}`);
  });
  const areas = devices.map(({ id, areaOffsetBytes, areaLengthBytes }) => ({
    id,
    areaOffsetBytes,
    areaLengthBytes,
  }));
  return { run, seed, areas };
}

/** Records the event again, under the checks that held when it was recorded first. */
function replay(history: History, value: unknown): void {
  const event = checked(eventSchema, value);
  if (event.event !== history.eventCount + 1) {
    throw new Error(
      `event ${event.event} follows event ${history.eventCount}; lines are missing or out of order`,
    );
  }
  switch (event.type) {
    case 'invoke':
      sameNumber(
        'write',
        event.write,
        history.invoke(event.writer, event.device, event.sector, event.sectors),
      );
      break;
    case 'ack':
      history.ack(event.write);
      break;
    case 'copy-requested':
      sameNumber('copy', event.copy, history.requestCopy());
      break;
    case 'copy-completed':
      history.completeCopy(event.copy);
      break;
  }
}

function sameNumber(what: string, found: number, expected: number): void {
  if (found !== expected) throw new Error(`${what} ${found} stands where ${what} ${expected} should`);
}

function checked<T>(schema: z.ZodType<T>, value: unknown): T {
  const result = schema.safeParse(value);
  if (!result.success) throw new Error(z.prettifyError(result.error).replaceAll(/\s+/g, ' '));
  return result.data;
}

/** The value of a JSON text, or undefined if it is not one. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

async function* linesOf(path: string): AsyncGenerator<{ text: string; terminated: boolean }> {
  let rest = '';
  try {
    for await (const chunk of createReadStream(path, { encoding: 'utf8', highWaterMark: MiB })) {
      const lines = (rest + String(chunk)).split('\n');
      rest = lines.pop() ?? '';
      for (const text of lines) yield { text, terminated: true };
      // Something that is not a history may have no lines at all: do not collect it in memory.
      if (rest.length > LONGEST_LINE) break;
    }
  } catch (error) {
    throw badHistory(path, `the history cannot be read: ${messageOf(error)}`, error);
  }
  if (rest !== '') yield { text: rest, terminated: rest.length > LONGEST_LINE };
}
