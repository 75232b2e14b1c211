import { FileStore } from '#src/backup/image/file-store';
import { BackupImage } from '#src/backup/image/image';
import type { ImageStore } from '#src/backup/image/store';
import { CopyPool } from '#src/backup/pool';
import type { Core } from '#src/core/core';
import { loadCore } from '#src/core/load';
import { temporaryDirectory, type TemporaryDirectory } from '../../support/directory.js';
import { MemoryStore } from './memory-store.js';

/** The ways in which an image's blocks are read: by either core on worker threads, or through the store. */
export const bench = ['native', 'portable', 'memory'] as const;

export interface Bench extends AsyncDisposable {
  readonly core: Core;
  readonly pool: CopyPool;
  readonly directory: TemporaryDirectory;
  readonly store: ImageStore;
  /** A new image, on `store`. */
  readonly image: BackupImage;
}

export async function setUp(kind: (typeof bench)[number]): Promise<Bench> {
  const core = await loadCore(kind === 'portable' ? 'portable' : 'native');
  const directory = temporaryDirectory();
  const store =
    kind === 'memory' ? new MemoryStore() : await FileStore.create(directory.file('image'), core, 'image');
  const image = await BackupImage.initialise(store, core);
  const pool = await CopyPool.start(core, 2);
  return {
    core,
    pool,
    directory,
    store,
    image,
    [Symbol.asyncDispose]: async () => {
      await pool[Symbol.asyncDispose]();
      await image.close();
      await directory[Symbol.asyncDispose]();
    },
  };
}
