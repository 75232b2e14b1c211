import { folderFault } from '../devices/folder.js';
import type { NbdExport } from '../nbd/server/exports.js';
import { NbdServer } from '../nbd/server/server.js';
import type { NbdUri } from '../nbd/uri.js';
import type { Clock } from '../runtime/clock.js';
import { invariant } from '../runtime/errors.js';
import { ExportList } from './exports.js';

interface Listener {
  exports: ExportList;
  server: NbdServer;
}

/** The NBD servers of one process, one per address, and what each exports. */
export class Listeners implements AsyncDisposable {
  readonly #clock: Clock;
  readonly #byAddress = new Map<string, Listener>();
  readonly #byExport = new Map<string, Listener>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /**
   * Exports a device at an address, where it listens from now on if it did not yet.
   *
   * @returns what ends the export and closes the connections that use it.
   * @throws CofferdamError as {@link NbdServer.listen}; DEVICE_NOT_FOUND for a socket whose folder is not there
   */
  async add(at: NbdUri, entry: NbdExport): Promise<Disposable> {
    const listener = await this.#listenerAt(at);
    invariant(!this.#byExport.has(entry.name), `one export is called ${entry.name}`);
    this.#byExport.set(entry.name, listener);
    const listed = listener.exports.add(entry);
    return {
      [Symbol.dispose]: () => {
        listed[Symbol.dispose]();
        this.#byExport.delete(entry.name);
        listener.server.disconnect(entry.name);
      },
    };
  }

  /** What to give to a client of an export. */
  uriOf(exportName: string): string {
    const listener = this.#byExport.get(exportName);
    invariant(listener !== undefined, `there is an export ${exportName}`);
    return listener.server.uriOf(exportName);
  }

  /** Closes all connections of an export at once, without answering what is in flight. */
  disconnect(exportName: string): void {
    this.#byExport.get(exportName)?.server.disconnect(exportName);
  }

  /** Answers what is in flight and closes all connections. The devices stay open. */
  async close(): Promise<void> {
    await Promise.all([...this.#byAddress.values()].map(({ server }) => server.close()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #listenerAt({ address, tls, tlsCertificates }: NbdUri): Promise<Listener> {
    const key = JSON.stringify(address);
    const known = this.#byAddress.get(key);
    if (known) return known;
    // Node says of a socket in a folder that is not there that it may not be made.
    const fault = address.kind === 'unix' ? folderFault(address.path) : undefined;
    if (fault) throw fault;
    const exports = new ExportList();
    const server = await NbdServer.listen({
      exports,
      listen: address,
      tls: tls ? { mode: 'required', certificates: tlsCertificates ?? '.' } : undefined,
      clock: this.#clock,
    });
    const listener = { exports, server };
    this.#byAddress.set(key, listener);
    return listener;
  }
}
