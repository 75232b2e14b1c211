import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { filesUnder, fingerprint, readJsonIfAny } from './fingerprint.mjs';
import { findCommand, firstLine, runTool, say, ToolFailure } from './tool.mjs';

/**
 * The Rust core, built from native/ into native/build.
 *
 * Invariants: a binary in native/build was made from the sources as they are now, or it is removed; a build that failed
 * is not tried again until its sources or the Rust compiler change.
 */
export class NativeCore {
  /**
   * @param {string} root
   * @param {{ wanted: boolean }} options `wanted: false` builds nothing.
   */
  constructor(root, { wanted }) {
    this.root = root;
    this.wanted = wanted;
    this.output = join(root, 'native', 'build');
    this.stampFile = join(this.output, '.ready.json');
    const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
    const sources = filesUnder(root, 'native', ['build', 'target']);
    this.key = fingerprint(root, sources, scripts['build:native'], process.platform, process.arch);
  }

  isUpToDate() {
    if (this.#isBuilt()) return true;
    return this.#binaries().length === 0 && !(this.wanted && this.#canBuild());
  }

  async update() {
    this.#removeBinaries();
    if (this.wanted && this.#canBuild()) await this.#build();
  }

  /** Why there is no native core and what to do about it, in one line; nothing if it is there. */
  lack() {
    return this.#isBuilt() ? undefined : this.#obstacle();
  }

  async #build() {
    say('building the native core, which takes a minute');
    mkdirSync(this.output, { recursive: true });
    try {
      await runTool(this.root, 'npm', ['run', '--silent', 'build:native']);
      this.#stamp({ binaries: this.#binaries() });
    } catch (error) {
      if (!(error instanceof ToolFailure)) throw error;
      this.#removeBinaries();
      writeFileSync(join(this.output, 'build.log'), error.output);
      this.#stamp({ failedWith: rustVersion() });
      say(`the native core could not be built\n${lastWords(error.output)}`);
    }
  }

  #isBuilt() {
    const stamp = readJsonIfAny(this.stampFile);
    if (stamp?.key !== this.key) return false;
    /** @type {string[]} */
    const binaries = stamp.binaries ?? [];
    return binaries.length > 0 && binaries.every((name) => existsSync(join(this.output, name)));
  }

  #canBuild() {
    return this.#obstacle() === undefined;
  }

  #obstacle() {
    const manifest = readFileSync(join(this.root, 'native', 'Cargo.toml'), 'utf8');
    const wanted = /^rust-version\s*=\s*"(\d+\.\d+)/m.exec(manifest)?.[1];
    if (!wanted) throw new Error('native/Cargo.toml does not say which rust-version it needs');
    const remedy = `for the native one, install Rust ${wanted} or newer (rustup.rs)`;
    if (!findCommand('cargo')) return `there is no cargo on the PATH; ${remedy}`;
    const version = rustVersion();
    if (!version) return `there is no rustc that works; ${remedy}`;
    if (isOlder(version, wanted)) return `this is Rust ${version}; ${remedy}`;
    const stamp = readJsonIfAny(this.stampFile);
    if (stamp?.key === this.key && stamp.failedWith === version) {
      return 'the native one did not build, see native/build/build.log; to try again, remove native/build';
    }
    return undefined;
  }

  #binaries() {
    if (!existsSync(this.output)) return [];
    return readdirSync(this.output).filter((name) => name.endsWith('.node'));
  }

  #removeBinaries() {
    for (const name of this.#binaries()) rmSync(join(this.output, name));
  }

  /** @param {{ binaries: string[] } | { failedWith: string | undefined }} outcome */
  #stamp(outcome) {
    writeFileSync(this.stampFile, JSON.stringify({ key: this.key, ...outcome }));
  }
}

/** @returns {string | undefined} such as `1.88.0`. */
function rustVersion() {
  return /^rustc (\d+\.\d+\.\d+)/.exec(firstLine('rustc', ['--version']) ?? '')?.[1];
}

/**
 * @param {string} version
 * @param {string} than
 */
function isOlder(version, than) {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const [wantedMajor = 0, wantedMinor = 0] = than.split('.').map(Number);
  return major < wantedMajor || (major === wantedMajor && minor < wantedMinor);
}

/**
 * The end of what cargo said, without the stack trace of the tool around it.
 *
 * @param {string} output
 */
function lastWords(output) {
  const [fromCargo = ''] = output.split(/^.*Internal Error/m);
  return fromCargo.trimEnd().split('\n').slice(-12).join('\n');
}
