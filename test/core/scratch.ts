import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A directory for a test's files, and the descriptors opened on them; all gone when the scope ends. */
export class Scratch implements Disposable {
  readonly #directory = mkdtempSync(join(tmpdir(), 'cofferdam-core-'));
  readonly #descriptors: number[] = [];

  path(name: string): string {
    return join(this.#directory, name);
  }

  /** Makes a file of the scratch directory with this content and opens it for reading and writing. */
  create(name: string, content: Uint8Array = new Uint8Array()): number {
    writeFileSync(this.path(name), content);
    return this.open(this.path(name), 'r+');
  }

  /** Opens a file that exists. */
  open(path: string, flags: 'r' | 'r+' | 'a'): number {
    const fd = openSync(path, flags);
    this.#descriptors.push(fd);
    return fd;
  }

  close(fd: number): void {
    closeSync(fd);
    this.#descriptors.splice(this.#descriptors.indexOf(fd), 1);
  }

  content(name: string): Uint8Array {
    return readFileSync(this.path(name));
  }

  [Symbol.dispose](): void {
    for (const fd of this.#descriptors) closeSync(fd);
    rmSync(this.#directory, { recursive: true, force: true });
  }
}
