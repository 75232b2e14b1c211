import { mkdtemp, rm, statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openDevice } from '../../devices/open.js';
import { CofferdamError } from '../../runtime/errors.js';
import { formatBytes, GiB } from '../../runtime/sizes.js';
import type { NamedPath } from '../arguments.js';

/** Of a user's image: the disk, two backups of it and a restored copy. */
const COPIES = 4;

/** What the disks that the demo makes by itself come to, with all that is done to them. */
const OWN_BYTES = GiB;

/** The demo's own folder, removed in the end unless it is to be kept. */
export class DemoFolder implements AsyncDisposable {
  private constructor(
    readonly path: string,
    readonly isKept: boolean,
  ) {}

  /**
   * @param images of the user, which need space for their copies.
   * @throws CofferdamError TARGET_FULL, DEVICE_NOT_FOUND
   */
  static async create(images: readonly NamedPath[], isKept: boolean): Promise<DemoFolder> {
    const neededBytes = OWN_BYTES + COPIES * (await dataBytes(images));
    const { bavail, bsize } = await statfs(tmpdir());
    if (neededBytes > bavail * bsize) {
      throw new CofferdamError(
        'TARGET_FULL',
        `the demo needs about ${formatBytes(neededBytes)} in ${tmpdir()}, where ${formatBytes(bavail * bsize)} are free; ` +
          'set TMPDIR to a folder with more space',
      );
    }
    return new DemoFolder(await mkdtemp(join(tmpdir(), 'cofferdam-demo-')), isKept);
  }

  file(name: string): string {
    return join(this.path, name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.isKept) await rm(this.path, { recursive: true, force: true });
  }
}

async function dataBytes(images: readonly NamedPath[]): Promise<number> {
  let sum = 0;
  for (const { path } of images) {
    await using device = await openDevice(path, { readOnly: true });
    for (const extent of await device.allocation(0, device.sizeBytes)) {
      if (extent.kind === 'data') sum += extent.lengthBytes;
    }
  }
  return sum;
}
