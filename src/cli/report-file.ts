import { open, rm, type FileHandle } from 'node:fs/promises';
import { resolve } from 'node:path';
import { asideOf, publishOver } from '../backup/publish.js';
import { CofferdamError, errnoOf, messageOf } from '../runtime/errors.js';

/** How every page begins that a report may take the place of. */
const PAGE_BEGINS = '<!doctype html>';

/**
 * A page that is written once the work is done that it is about. Its place is tried before, so that nobody learns
 * after hours that it could not be written. It is there whole or not at all, and takes the place of nothing but another page:
 * a slip of the finger must not cost anybody a disk image.
 */
export class ReportFile implements AsyncDisposable {
  readonly #path: string;
  readonly #aside: string;
  readonly #file: FileHandle;

  private constructor(path: string, aside: string, file: FileHandle) {
    this.#path = path;
    this.#aside = aside;
    this.#file = file;
  }

  /** @throws CofferdamError TARGET_EXISTS, TARGET_WRITE_FAILED */
  static async at(givenPath: string): Promise<ReportFile> {
    const path = resolve(givenPath);
    await assertReplaceable(path);
    const aside = asideOf(path);
    try {
      return new ReportFile(path, aside, await open(aside, 'wx'));
    } catch (cause) {
      throw unwritable(path, cause);
    }
  }

  /** @throws CofferdamError TARGET_EXISTS, TARGET_WRITE_FAILED */
  async publish(page: string): Promise<void> {
    // The work in between may have made something of this name itself.
    await assertReplaceable(this.#path);
    try {
      await this.#file.writeFile(page);
      await this.#file.sync();
      await publishOver(this.#aside, this.#path);
    } catch (cause) {
      throw unwritable(this.#path, cause);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
    await rm(this.#aside, { force: true });
  }
}

async function assertReplaceable(path: string): Promise<void> {
  const beginning = Buffer.alloc(PAGE_BEGINS.length);
  let lengthBytes: number;
  try {
    await using file = await open(path, 'r');
    if (!(await file.stat()).isFile()) throw new Error('it is not a file');
    lengthBytes = (await file.read(beginning)).bytesRead;
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') return;
    throw unwritable(path, cause);
  }
  if (lengthBytes === 0 || beginning.toString('latin1').toLowerCase() === PAGE_BEGINS) return;
  throw new CofferdamError(
    'TARGET_EXISTS',
    `${path} exists and is not an HTML page; give the report another name`,
    { device: path },
  );
}

function unwritable(path: string, cause: unknown): CofferdamError {
  return new CofferdamError(
    'TARGET_WRITE_FAILED',
    `the report ${path} cannot be written (${messageOf(cause)}); give another place`,
    { device: path, cause },
  );
}
