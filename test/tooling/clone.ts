import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { temporaryDirectory } from '../support/directory.js';
import { runProcess, type ProcessResult } from '../support/process.js';

const project = fileURLToPath(new URL('../..', import.meta.url));

export interface StartedProcess {
  /** Exit code and signal. */
  readonly ended: Promise<unknown[]>;
  kill(): void;
  /** Waits for a line on stderr. */
  says(line: string): Promise<void>;
}

/**
 * A small stand-in for a fresh clone, with the project's own scripts and TypeScript compiler. `npm`, `cargo` and `rustc`
 * are stand-ins that note each call, so that a test sees what was run, and need no network.
 */
export class Clone implements AsyncDisposable {
  readonly #directory = temporaryDirectory();
  readonly root = this.#directory.file('clone');
  readonly #commands = this.#directory.file('commands');
  readonly #log = this.#directory.file('calls');

  constructor() {
    mkdirSync(this.#commands);
    mkdirSync(this.root);
    cpSync(join(project, 'scripts'), join(this.root, 'scripts'), { recursive: true });
    cpSync(join(project, 'tsconfig.json'), join(this.root, 'tsconfig.json'));
    const manifest = {
      type: 'module',
      engines: { node: '>=20.19' },
      scripts: { 'build:native': 'napi build' },
    };
    this.write('package.json', JSON.stringify(manifest));
    this.lockPackage('1.0.0');
    this.write('src/cli/main.ts', "#!/usr/bin/env node\nconsole.log('main');\n");
    this.write('src/other.ts', 'export const other: number = 1;\n');
    this.write('native/Cargo.toml', '[package]\nname = "core"\nrust-version = "1.88"\n');
    this.write('native/src/lib.rs', 'fn first() {}\n');
    for (const program of [process.execPath, '/bin/sh', '/bin/sleep']) {
      symlinkSync(program, join(this.#commands, basename(program)));
    }
    this.#command('npm', this.#npm());
    this.#command('cargo', 'exit 1');
    this.useRust('1.95.0');
  }

  /** What the stand-ins were called with, oldest first. */
  get calls(): string[] {
    return existsSync(this.#log) ? readFileSync(this.#log, 'utf8').trim().split('\n') : [];
  }

  ready(args: string[] = [], env: Record<string, string> = {}): Promise<ProcessResult> {
    const changes = { ...this.#environment, ...env };
    return runProcess(process.execPath, ['scripts/ready.mjs', ...args], { cwd: this.root, env: changes });
  }

  /** Starts `ready` in a process group of its own, so that it can be killed together with the tools it runs. */
  start(): StartedProcess {
    const env = { ...process.env, ...this.#environment };
    const child = spawn(process.execPath, ['scripts/ready.mjs'], {
      cwd: this.root,
      env,
      detached: true,
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => (said += chunk));
    return {
      ended: once(child, 'close'),
      kill() {
        if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
      },
      async says(line) {
        while (!said.includes(line)) await once(child.stderr, 'data');
      },
    };
  }

  /** The system's own folders are not on the PATH: a cargo there must not be found. */
  get #environment(): Record<string, string | undefined> {
    return { PATH: this.#commands, LOG: this.#log, COFFERDAM_CORE: undefined };
  }

  path(file: string): string {
    return join(this.root, file);
  }

  exists(file: string): boolean {
    return existsSync(this.path(file));
  }

  read(file: string): string {
    return readFileSync(this.path(file), 'utf8');
  }

  write(file: string, content: string): void {
    mkdirSync(dirname(this.path(file)), { recursive: true });
    writeFileSync(this.path(file), content);
  }

  remove(file: string): void {
    rmSync(this.path(file), { recursive: true });
  }

  /** Changes the time of every source, as a fresh checkout does. */
  touchSources(): void {
    for (const folder of ['src', 'native']) {
      for (const name of readdirSync(this.path(folder), { recursive: true, encoding: 'utf8' })) {
        utimesSync(this.path(join(folder, name)), new Date(), new Date());
      }
    }
  }

  /** Makes package-lock.json ask for this version of its one package. */
  lockPackage(version: string): void {
    this.write('package-lock.json', JSON.stringify(packages(version)));
  }

  /** Leaves node_modules as npm does when somebody installs this version by hand. */
  installByHand(version: string): void {
    this.write('node_modules/.package-lock.json', JSON.stringify(packages(version)));
  }

  useRust(version: string): void {
    this.#command('rustc', `echo "rustc ${version} (0123abc 2026-01-01)"`);
  }

  removeCargo(): void {
    rmSync(join(this.#commands, 'cargo'));
  }

  /** Makes `npm ci` wait until `letNpmGo`. */
  holdNpm(): void {
    this.write('hold', '');
  }

  letNpmGo(): void {
    rmSync(this.path('hold'), { force: true });
  }

  #command(name: string, body: string): void {
    const path = join(this.#commands, name);
    writeFileSync(path, `#!/bin/sh\nPATH=/usr/bin:/bin\n${body}\n`);
    chmodSync(path, 0o755);
  }

  #npm(): string {
    const typescript = join(project, 'node_modules');
    return `
echo "npm $*" >> $LOG
case "$1" in
  ci)
    while [ -e hold ]; do sleep 0.02; done
    rm -rf node_modules
    mkdir -p node_modules/.bin
    for name in typescript @typescript @types undici-types; do ln -s ${typescript}/$name node_modules/$name; done
    ln -s ../typescript/bin/tsc node_modules/.bin/tsc
    cp package-lock.json node_modules/.package-lock.json ;;
  run)
    if grep -q broken native/src/lib.rs; then echo "error: broken at line 1" >&2; exit 101; fi
    cp native/src/lib.rs native/build/cofferdam.test.node ;;
esac`;
  }

  [Symbol.asyncDispose](): PromiseLike<void> {
    return this.#directory[Symbol.asyncDispose]();
  }
}

function packages(version: string): object {
  return {
    packages: {
      '': { name: 'clone' },
      'node_modules/typescript': { version, integrity: `sha512-${version}` },
    },
  };
}
