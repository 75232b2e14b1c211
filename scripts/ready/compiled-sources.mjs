import { chmodSync, existsSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { filesUnder, fingerprint, readJsonIfAny } from './fingerprint.mjs';
import { runTool, say } from './tool.mjs';

/**
 * What the TypeScript compiler makes of src/, in dist/.
 *
 * It is compiled whole into a directory aside, which then takes the place of dist/. So files of deleted sources cannot
 * stay behind, an error leaves the last good build, and a program that runs from dist/ never sees half of one.
 */
export class CompiledSources {
  /** @param {string} root */
  constructor(root) {
    this.root = root;
    this.dist = join(root, 'dist');
  }

  isUpToDate() {
    const stamp = readJsonIfAny(join(this.dist, '.ready.json'));
    return stamp !== undefined && stamp.key === this.#key() && stamp.output === outputKey(this.dist);
  }

  async update() {
    say('compiling');
    const key = this.#key();
    const next = join(this.root, 'dist.next');
    const last = join(this.root, 'dist.last');
    for (const leftover of [next, last]) rmSync(leftover, { recursive: true, force: true });

    const outputs = ['--outDir', 'dist.next', '--tsBuildInfoFile', 'dist.next/.tsbuildinfo'];
    await runTool(this.root, 'node_modules/.bin/tsc', ['-p', 'tsconfig.json', ...outputs]);
    const program = join(next, 'cli', 'main.js');
    if (existsSync(program)) chmodSync(program, 0o755);
    writeFileSync(join(next, '.ready.json'), JSON.stringify({ key, output: outputKey(next) }));

    if (existsSync(this.dist)) renameSync(this.dist, last);
    renameSync(next, this.dist);
    rmSync(last, { recursive: true, force: true });
  }

  #key() {
    const compiler = readJsonIfAny(join(this.root, 'node_modules', 'typescript', 'package.json'));
    return fingerprint(
      this.root,
      ['tsconfig.json', ...filesUnder(this.root, 'src')],
      String(compiler?.version),
    );
  }
}

/**
 * Tells a build from one that somebody made since with the compiler itself, which rewrites this file.
 *
 * @param {string} directory
 */
function outputKey(directory) {
  return existsSync(join(directory, '.tsbuildinfo')) ? fingerprint(directory, ['.tsbuildinfo']) : undefined;
}
