import type { ExportTable, NbdExport } from '../nbd/server/exports.js';

/** Exports that come and go while they are served. Names are unique. */
export class ExportList implements ExportTable {
  readonly #exports = new Map<string, NbdExport>();

  /** @returns what takes the export off the list again; who has opened it keeps it. */
  add(entry: NbdExport): Disposable {
    this.#exports.set(entry.name, entry);
    return {
      [Symbol.dispose]: () => {
        if (this.#exports.get(entry.name) === entry) this.#exports.delete(entry.name);
      },
    };
  }

  list(): readonly NbdExport[] {
    return [...this.#exports.values()];
  }

  find(name: string): NbdExport | undefined {
    return this.#exports.get(name);
  }
}
