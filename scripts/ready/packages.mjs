import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fingerprint, readJsonIfAny } from './fingerprint.mjs';
import { runTool, say } from './tool.mjs';

/** The packages of package-lock.json, in node_modules. */
export class Packages {
  /** @param {string} root */
  constructor(root) {
    this.root = root;
    this.modules = join(root, 'node_modules');
    this.stampFile = join(this.modules, '.ready.json');
    this.key = fingerprint(root, ['package-lock.json']);
  }

  isUpToDate() {
    return readJsonIfAny(this.stampFile)?.key === this.key;
  }

  async update() {
    if (!this.#agreesWithNpm()) {
      say('installing packages');
      // The tests and the compiler are development packages, which NODE_ENV=production would leave out.
      await runTool(this.root, 'npm', ['ci', '--include=dev', '--no-audit', '--no-fund']);
    }
    writeFileSync(this.stampFile, JSON.stringify({ key: this.key }));
  }

  /**
   * Whether npm's own record of what is installed agrees with package-lock.json, so that a tree that somebody
   * installed by hand is not installed again. Optional packages may be for other platforms.
   */
  #agreesWithNpm() {
    const wanted = readJsonIfAny(join(this.root, 'package-lock.json'))?.packages ?? {};
    const installed = readJsonIfAny(join(this.modules, '.package-lock.json'))?.packages;
    if (!installed) return false;
    for (const [path, entry] of Object.entries(wanted)) {
      if (path === '' || (entry.optional && !installed[path])) continue;
      if (installed[path]?.version !== entry.version || installed[path]?.integrity !== entry.integrity)
        return false;
    }
    return Object.keys(installed).every((path) => path in wanted);
  }
}
