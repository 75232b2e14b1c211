import { vi } from 'vitest';
import type { Core, NativePreImages, NativeWatch } from '#src/core/core';

/** Notes the snapshots that native threads look at, from now on until the mocks are restored. */
export function noteNativeSnapshots(core: Core): () => NativePreImages[] {
  const watch = core.newWatch?.();
  if (!watch) return () => [];
  const begin = vi.spyOn(Object.getPrototypeOf(watch) as NativeWatch, 'begin');
  return () => begin.mock.results.map(({ value }) => value as NativePreImages);
}
