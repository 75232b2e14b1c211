import type { Core } from '#src/core/core';
import { loadCore } from '#src/core/load';
import { isCofferdamError } from '#src/runtime/errors';

/** The cores that this machine has, the native one first. */
export async function availableCores(): Promise<Core[]> {
  const native = await loadCore('native').catch((error: unknown) => {
    if (isCofferdamError(error, 'DEVICE_UNSUPPORTED')) return undefined;
    throw error;
  });
  return [...(native ? [native] : []), await loadCore('portable')];
}
