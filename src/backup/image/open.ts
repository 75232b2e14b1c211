import type { Stats } from 'node:fs';
import { chmod, realpath, stat, unlink } from 'node:fs/promises';
import type { Core } from '../../core/core.js';
import { loadCore } from '../../core/load.js';
import { openDevice } from '../../devices/open.js';
import { openError } from '../../devices/os-error.js';
import { CofferdamError, errnoOf, isCofferdamError } from '../../runtime/errors.js';
import { MiB } from '../../runtime/sizes.js';
import { asideOf, publish, publishOver } from '../publish.js';
import { DeviceStore } from './device-store.js';
import { FileStore } from './file-store.js';
import { BackupImage } from './image.js';
import type { ImageStore } from './store.js';

export interface OpenImageOptions {
  /** Open to add generations, which nobody else may do meanwhile. Default false: to read, beside other readers. */
  write?: boolean;
  /** With `write`: make the image if the file does not exist or is empty. Default false. */
  create?: boolean;
  /** With `write`: make an image on a block device that holds nothing. Default false. */
  initialise?: boolean;
}

/**
 * Opens the backup image in a file or on a block device. What is not an image is left as it is.
 *
 * @throws CofferdamError DEVICE_NOT_FOUND, DEVICE_BUSY, NOT_AN_IMAGE, IMAGE_UNINITIALISED, IMAGE_VERSION,
 * IMAGE_TRUNCATED, IMAGE_CORRUPT, DEVICE_IO, TARGET_FULL, TARGET_WRITE_FAILED
 */
export async function openImage(path: string, options: OpenImageOptions = {}): Promise<BackupImage> {
  const core = await loadCore();
  const { write = false, create = false, initialise = false } = options;
  const stats = await statOf(path);
  if (stats?.isBlockDevice()) return await openOnDevice(path, core, write, initialise);
  if (stats && !stats.isFile()) {
    throw new CofferdamError('NOT_AN_IMAGE', `${path} is neither a file nor a block device`, {
      device: path,
    });
  }
  if (write && create && (!stats || stats.size === 0)) {
    const made = stats ? await replaceEmpty(path, core) : await createImage(path, core);
    if (made) return made;
  }
  return await openOn(await FileStore.open(path, core, write), core);
}

/** Makes the image under another name first: a crash leaves it whole under its own, or not there. */
async function createImage(path: string, core: Core): Promise<BackupImage | undefined> {
  try {
    return await makeAside(path, core, (aside) => publish(aside, path));
  } catch (error) {
    // Somebody else was faster; what they have made is opened like anything that was there before.
    if (isCofferdamError(error, 'TARGET_EXISTS')) return undefined;
    throw error;
  }
}

/** As {@link createImage}, where an empty file has the name. It is locked meanwhile, so nobody fills it. */
async function replaceEmpty(path: string, core: Core): Promise<BackupImage | undefined> {
  const target = await realpath(path);
  await using empty = await FileStore.open(target, core, true);
  if ((await empty.sizeBytes()) > 0) return undefined;
  const { mode } = await stat(target);
  return await makeAside(target, core, async (aside) => {
    // Who may read the backup is what the empty file was made to say.
    await chmod(aside, mode & 0o7777);
    await publishOver(aside, target);
  });
}

/** @returns the new image, open. */
async function makeAside(
  path: string,
  core: Core,
  publishFrom: (aside: string) => Promise<void>,
): Promise<BackupImage> {
  const aside = asideOf(path);
  const store = await FileStore.create(aside, core, path);
  try {
    const image = await BackupImage.initialise(store, core);
    await publishFrom(aside);
    return image;
  } catch (error) {
    await store.close();
    await unlink(aside).catch(() => undefined);
    throw error;
  }
}

async function openOnDevice(
  path: string,
  core: Core,
  write: boolean,
  initialise: boolean,
): Promise<BackupImage> {
  const store = new DeviceStore(await openDevice(path, { readOnly: !write, core }));
  return await closingOnFailure(store, async () => {
    try {
      return await BackupImage.open(store, core);
    } catch (error) {
      if (!isCofferdamError(error, 'NOT_AN_IMAGE')) throw error;
      if (!(await isUnformatted(store, core))) {
        throw new CofferdamError(
          'NOT_AN_IMAGE',
          `${path} holds something that is not a cofferdam backup image; ` +
            'if it is of no use any more, clear it with wipefs --all and try again',
          { device: path },
        );
      }
      if (write && initialise) return await BackupImage.initialise(store, core);
      throw new CofferdamError(
        'IMAGE_UNINITIALISED',
        `${path} is a block device that holds nothing yet; say --init to make a backup image of it`,
        { device: path },
      );
    }
  });
}

/** Whether there are only zeros where file systems, partition tables and their backups have their marks. */
async function isUnformatted(store: ImageStore, core: Core): Promise<boolean> {
  const sizeBytes = await store.sizeBytes();
  const length = Math.min(sizeBytes, MiB);
  const bytes = new Uint8Array(length);
  for (const offset of [0, sizeBytes - length]) {
    await store.read(offset, bytes);
    if (!core.isZero(bytes)) return false;
  }
  return true;
}

function openOn(store: ImageStore, core: Core): Promise<BackupImage> {
  return closingOnFailure(store, () => BackupImage.open(store, core));
}

async function closingOnFailure<T>(store: ImageStore, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    await store.close();
    throw error;
  }
}

/** Undefined if there is nothing at this path. */
async function statOf(path: string): Promise<Stats | undefined> {
  try {
    return await stat(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw openError(path, error);
  }
}
