import { CofferdamError, messageOf } from '../runtime/errors.js';
import type { Core, CoreName } from './core.js';
import { loadNative } from './native.js';

const loaded = new Map<CoreName, Promise<Core>>();
let chosen: Promise<Core> | undefined;

/**
 * The copy core of this thread; loaded once.
 *
 * @param name which core. Without it the environment variable COFFERDAM_CORE decides (`native` or `portable`); if that
 * is not set, it is the native core, or else the portable one with a warning COFFERDAM_PORTABLE_CORE.
 * @throws CofferdamError BAD_ARGUMENT if COFFERDAM_CORE is neither; DEVICE_UNSUPPORTED if the native core is asked for
 * and cannot be loaded.
 */
export function loadCore(name?: CoreName): Promise<Core> {
  if (name !== undefined) return loadNamed(name);
  chosen ??= choose();
  return chosen;
}

async function choose(): Promise<Core> {
  const wanted = process.env['COFFERDAM_CORE'];
  if (wanted === 'native' || wanted === 'portable') return loadNamed(wanted);
  if (wanted !== undefined && wanted !== '') {
    throw new CofferdamError(
      'BAD_ARGUMENT',
      `COFFERDAM_CORE: "${wanted}" is not a core; set native or portable`,
    );
  }
  try {
    return await loadNamed('native');
  } catch (error) {
    process.emitWarning(`using the portable copy core, which is slower: ${messageOf(error)}`, {
      code: 'COFFERDAM_PORTABLE_CORE',
    });
    return loadNamed('portable');
  }
}

function loadNamed(name: CoreName): Promise<Core> {
  let core = loaded.get(name);
  if (core === undefined) {
    core = name === 'native' ? (async () => loadNative())() : loadPortableLazily();
    loaded.set(name, core);
  }
  return core;
}

/** Loads the WebAssembly of the portable core only where it is used. */
async function loadPortableLazily(): Promise<Core> {
  const { loadPortable } = await import('./portable.js');
  return loadPortable();
}
