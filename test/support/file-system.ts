import { mkdir } from 'node:fs/promises';
import { temporaryDirectory } from './directory.js';
import { attachLoop, mount, run } from './loop-device.js';
import { mountExport } from './nbdfuse.js';
import type { Requirement } from './needs.js';

/** What {@link mountFileSystem} needs. */
export const mountNeeds: readonly Requirement[] = [
  'root',
  '/dev/fuse',
  '/dev/loop-control',
  'nbdfuse',
  'fusermount3',
  'losetup',
  'mke2fs',
  'e2fsck',
];

/** An ext4 file system on an NBD export: nbdfuse, a loop device, and a mount. */
export interface FileSystem extends AsyncDisposable {
  /** Where it is mounted. */
  readonly path: string;
  /** Unmounts it and runs `e2fsck -fn`; rejects if that finds anything. */
  check(): Promise<void>;
}

/**
 * Mounts the file system of an export until the scope ends.
 *
 * @param options.make puts an empty one there first.
 */
export async function mountFileSystem(uri: string, options: { make?: boolean } = {}): Promise<FileSystem> {
  await using stack = new Unwinding();
  const file = stack.use(await mountExport(uri));
  const loop = stack.use(await attachLoop(file.path));
  if (options.make) await run('mke2fs', '-q', '-t', 'ext4', loop.path);
  const directory = stack.use(temporaryDirectory());
  const path = directory.file('mount');
  await mkdir(path);
  const mounted = await mount(loop.path, path);
  let isMounted = true;
  stack.use({
    [Symbol.asyncDispose]: async () => {
      if (isMounted) await mounted[Symbol.asyncDispose]();
    },
  });
  const all = stack.move();
  return {
    path,
    async check() {
      await mounted[Symbol.asyncDispose]();
      isMounted = false;
      await run('e2fsck', '-f', '-n', loop.path);
    },
    [Symbol.asyncDispose]: () => all[Symbol.asyncDispose](),
  };
}

/** What is to be undone, the last first; `AsyncDisposableStack` for a Node that has none. */
class Unwinding implements AsyncDisposable {
  #things: AsyncDisposable[] = [];

  use<T extends AsyncDisposable>(thing: T): T {
    this.#things.push(thing);
    return thing;
  }

  move(): Unwinding {
    const moved = new Unwinding();
    moved.#things = this.#things;
    this.#things = [];
    return moved;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const thing of this.#things.splice(0).reverse()) await thing[Symbol.asyncDispose]();
  }
}
