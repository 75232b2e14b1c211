import { open, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { dropFromPageCache } from './page-cache.js';
import type { Racer } from './race.js';
import type { WayToCopy } from './ways-to-copy.js';

/** What a copy finds when it begins. */
export interface Conditions {
  /** A new target did not exist, or is a file of holes where one is needed. One in place has the last copy's blocks. */
  target: 'new' | 'in place';
  /** Cold: the page cache holds nothing of the source, nor of a target in place. */
  source: 'cached' | 'cold';
}

/** Where one of the ways to copy puts its copies. */
export class CopyTarget {
  readonly #way: WayToCopy;
  readonly #directory: string;
  readonly #files: readonly { path: string; lengthBytes: number | undefined }[];

  constructor(way: WayToCopy, path: string) {
    this.#way = way;
    this.#directory = dirname(path);
    this.#files = way.targets.map((lengthBytes, i) => ({ path: `${path}.${i}`, lengthBytes }));
  }

  /** The way, as it takes part in a race. Its warm-up makes what a target in place needs. */
  racer(conditions: Conditions): Racer {
    let isThere = false;
    const before = async (): Promise<void> => {
      const isReused = conditions.target === 'in place' && isThere;
      if (!isReused) await this.#renew();
      else await this.#way.windBack?.(this.#paths);
      isThere = true;
      if (conditions.source === 'cached') return;
      for (const path of [...this.#way.sources, ...(isReused ? this.#paths : [])])
        await dropFromPageCache(path);
    };
    // Only those in place have to be there side by side.
    const after = conditions.target === 'new' ? (): Promise<void> => this.remove() : undefined;
    return { name: this.#way.name, before, run: () => this.#way.copy(this.#paths), after };
  }

  async remove(): Promise<void> {
    for (const path of this.#paths) await rm(path, { force: true });
    // Else the file system would free the blocks while the next one is measured.
    await using directory = await open(this.#directory, 'r');
    await directory.sync();
  }

  async #renew(): Promise<void> {
    await this.remove();
    for (const { path, lengthBytes } of this.#files) {
      if (lengthBytes === undefined) continue;
      await using file = await open(path, 'wx');
      await file.truncate(lengthBytes);
      await file.sync();
    }
  }

  get #paths(): string[] {
    return this.#files.map(({ path }) => path);
  }
}
