import { closeSync, openSync, readSync } from 'node:fs';
import { FileDevice } from '#src/devices/file';
import type { PreImageLimits } from '#src/servers/pre-image-limits';
import { StorageServer } from '#src/servers/server';
import { temporaryDirectory } from '../support/directory.js';
import { OverseenDevice } from '../support/overseen-device.js';
import { Wire } from './wire.js';

/** How a site differs from one in memory, with a server as it comes. */
export interface SiteOptions {
  inMemory?: boolean;
  preImages?: PreImageLimits;
}

/** A server on a file, and how to look at the file behind its back. */
export class Site implements AsyncDisposable {
  readonly server: StorageServer;
  readonly #fd: number;

  private constructor(
    readonly device: OverseenDevice,
    readonly directory: ReturnType<typeof temporaryDirectory>,
    preImages: PreImageLimits,
  ) {
    this.server = new StorageServer({ id: 'a', device, preImages });
    this.#fd = openSync(directory.file('image'), 'r');
  }

  static async open(sizeBytes: number, { inMemory = true, preImages = {} }: SiteOptions = {}): Promise<Site> {
    const directory = temporaryDirectory({ inMemory });
    const file = await FileDevice.open(directory.file('image'), { create: { sizeBytes } });
    return new Site(new OverseenDevice(file), directory, { directory: directory.path, ...preImages });
  }

  /** What the file holds, without giving the event loop a turn. */
  content(): Buffer {
    const bytes = Buffer.alloc(this.device.sizeBytes);
    readSync(this.#fd, bytes, 0, bytes.length, 0);
    return bytes;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.close();
    closeSync(this.#fd);
    await this.directory[Symbol.asyncDispose]();
  }
}

/** Lets other threads work, but no turn of the event loop. */
export function spin(ms: number): void {
  const end = performance.now() + ms;
  while (performance.now() < end);
}

/** Takes all replies that come; answers how many there are when it is asked. */
export function countReplies(wire: Wire): () => number {
  let bytes = 0;
  wire.stream.on('data', (chunk: Buffer) => (bytes += chunk.length));
  return () => bytes / 20;
}

const wires: Wire[] = [];

export async function connect(server: StorageServer): Promise<Wire> {
  const wire = await Wire.connect(server.client);
  wires.push(wire);
  return wire;
}

/** Ends all connections. */
export async function disconnect(): Promise<void> {
  for (const wire of wires.splice(0)) await wire[Symbol.asyncDispose]();
}
