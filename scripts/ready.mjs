// Makes a clone ready to run: packages installed, native core built, TypeScript compiled. What is up to date is left
// alone, and then nothing is printed. Then runs a command, if one is given: `npm start`, `npm test` and
// `npm run bench` begin with this.
//
//   node scripts/ready.mjs [--no-native] [command [argument ...]]
//
// COFFERDAM_CORE=portable skips the native core too. With COFFERDAM_CORE=native it is an error not to have it.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CompiledSources } from './ready/compiled-sources.mjs';
import { runCommand } from './ready/command.mjs';
import { acquireLock } from './ready/lock.mjs';
import { NativeCore } from './ready/native-core.mjs';
import { refuseNode } from './ready/node-version.mjs';
import { Packages } from './ready/packages.mjs';
import { say, ToolFailure } from './ready/tool.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));

/**
 * @param {string | undefined} wantedCore `native`, `portable`, or nothing for the best there is.
 * @returns {Promise<string | undefined>} the core to use from now on, in the same terms.
 */
async function makeReady(wantedCore) {
  const { engines } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const refusal = refuseNode(engines.node, process.versions.node);
  if (refusal) throw new ToolFailure(refusal);

  const nativeCore = new NativeCore(root, { wanted: wantedCore !== 'portable' });
  // In this order: the compilers are among the packages.
  const steps = [new Packages(root), nativeCore, new CompiledSources(root)];
  if (!steps.every((step) => step.isUpToDate())) {
    const releaseLock = await acquireLock(root, () => say('waiting for another run in this directory'));
    // Looked at again, because the last holder of the lock may have done the work.
    for (const step of steps) if (!step.isUpToDate()) await step.update();
    releaseLock();
  }

  if (wantedCore === 'portable') return wantedCore;
  const lack = nativeCore.lack();
  if (!lack) return wantedCore;
  if (wantedCore === 'native') throw new ToolFailure(`COFFERDAM_CORE=native, but ${lack}`);
  say(`using the portable core, which is slower: ${lack}`);
  // Asked for by name, so that the program does not say it again.
  return 'portable';
}

const [firstArgument, ...otherArguments] = process.argv.slice(2);
const noNative = firstArgument === '--no-native';
const [command, ...commandArguments] = noNative ? otherArguments : process.argv.slice(2);
try {
  const core = await makeReady(noNative ? 'portable' : process.env['COFFERDAM_CORE']);
  if (command !== undefined)
    await runCommand(command, commandArguments, core ? { COFFERDAM_CORE: core } : {});
} catch (error) {
  if (!(error instanceof ToolFailure)) throw error;
  say(error.message);
  // At once, because a lock may still be held.
  process.exit(1);
}
