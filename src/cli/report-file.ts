import { open, rm, stat, type FileHandle } from 'node:fs/promises';
import { resolve } from 'node:path';
import { asideOf, publishOver } from '../backup/publish.js';
import { folderFault } from '../devices/folder.js';
import { reasonOf } from '../devices/os-error.js';
import { CofferdamError, errnoOf } from '../runtime/errors.js';

/** What a file that the program makes may take the place of: others of its kind, known by how they begin. */
export interface FileKind {
  name: string;
  /** With its article, for messages. */
  form: string;
  begins: string;
}

export const fileKinds = {
  report: { name: 'report', form: 'an HTML page', begins: '<!doctype html>' },
  picture: { name: 'picture', form: 'an SVG picture of this program', begins: '<svg ' },
  history: {
    name: 'history',
    form: 'a history of this program',
    begins: '{"format":"cofferdam-history"',
  },
} as const satisfies Record<string, FileKind>;

/**
 * A file that is written once the work is done that it is about. Its place is tried before, so that nobody learns
 * after hours that it could not be written. It is there whole or not at all, and takes the place of nothing but another of its
 * kind: a slip of the finger must not cost anybody a disk image.
 */
export class ReportFile implements AsyncDisposable {
  readonly #kind: FileKind;
  readonly #path: string;
  readonly #aside: string;
  readonly #file: FileHandle;

  private constructor(kind: FileKind, path: string, aside: string, file: FileHandle) {
    this.#kind = kind;
    this.#path = path;
    this.#aside = aside;
    this.#file = file;
  }

  /** @throws CofferdamError TARGET_EXISTS, TARGET_WRITE_FAILED */
  static async at(givenPath: string, kind: FileKind): Promise<ReportFile> {
    const path = resolve(givenPath);
    await assertReplaceable(path, kind);
    const aside = asideOf(path);
    try {
      return new ReportFile(kind, path, aside, await open(aside, 'wx'));
    } catch (cause) {
      throw unwritable(path, kind, cause);
    }
  }

  /** @throws CofferdamError TARGET_EXISTS, TARGET_WRITE_FAILED */
  async publish(content: string): Promise<void> {
    // The work in between may have made something of this name itself.
    await assertReplaceable(this.#path, this.#kind);
    try {
      await this.#file.writeFile(content);
      await this.#file.sync();
      await publishOver(this.#aside, this.#path);
    } catch (cause) {
      throw unwritable(this.#path, this.#kind, cause);
    }
  }

  /** What kept it from being written, if anything did: for what was worth doing without it. */
  async tryPublish(content: string): Promise<CofferdamError | undefined> {
    try {
      await this.publish(content);
      return undefined;
    } catch (error) {
      if (error instanceof CofferdamError) return error;
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
    await rm(this.#aside, { force: true });
  }
}

/** @throws CofferdamError TARGET_EXISTS if there is something of another kind; TARGET_WRITE_FAILED */
export async function assertReplaceable(path: string, kind: FileKind): Promise<void> {
  const beginning = Buffer.alloc(kind.begins.length);
  let lengthBytes: number;
  try {
    // Before it is opened, which would wait at a pipe.
    if (!(await stat(path)).isFile()) throw new Error('it is not a file');
    await using file = await open(path, 'r');
    lengthBytes = (await file.read(beginning)).bytesRead;
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') return;
    throw unwritable(path, kind, cause);
  }
  if (lengthBytes === 0 || beginning.toString('latin1').toLowerCase() === kind.begins) return;
  throw new CofferdamError(
    'TARGET_EXISTS',
    `${path} exists and is not ${kind.form}; give the ${kind.name} another name`,
    { device: path },
  );
}

function unwritable(path: string, { name }: FileKind, cause: unknown): CofferdamError {
  return new CofferdamError(
    'TARGET_WRITE_FAILED',
    `the ${name} ${path} cannot be written (${folderFault(path) ? 'its folder is not there' : reasonOf(cause)}); give another place`,
    { device: path, cause },
  );
}
