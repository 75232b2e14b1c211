import { existsSync } from 'node:fs';
import { cp, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { temporaryDirectory } from '../support/directory.js';
import { runProcess } from '../support/process.js';
import type { Mutant } from './mutant.js';

const project = fileURLToPath(new URL('../..', import.meta.url));

/** A copy of the package with its tests, compiled, in which at most one module is wrong. */
export interface Package extends AsyncDisposable {
  readonly path: string;
}

/**
 * Makes packages that are wrong. The checkout is never touched: what a package changes is a copy, and only what nobody
 * changes, the packages it depends on and the native core, is shared.
 */
export class Workshop implements AsyncDisposable {
  readonly #directory = temporaryDirectory();
  readonly #mutants: readonly Mutant[];

  private constructor(mutants: readonly Mutant[]) {
    this.#mutants = mutants;
  }

  /**
   * Compiles all mutants, by the compiler that makes dist/, in one run. Types are not checked: a program may be wrong in
   * a way that they would tell.
   *
   * @throws Error if a text that a mutant replaces is not there exactly once, or a mutant is no program.
   */
  static async open(mutants: readonly Mutant[]): Promise<Workshop> {
    const workshop = new Workshop(mutants);
    await workshop.#compile();
    return workshop;
  }

  /** The module of a mutant, compiled; without its edits, if asked for those of nobody. */
  async compiled(mutant: Mutant, kind: 'mutated' | 'original' = 'mutated'): Promise<string> {
    const folder = kind === 'mutated' ? this.#folder(mutant) : 'original';
    return await readFile(this.#directory.file(join('compiled', folder, moduleOf(mutant.file))), 'utf8');
  }

  /** A package with one mutant in it, or with none. */
  async package(mutant?: Mutant): Promise<Package> {
    const directory = temporaryDirectory();
    for (const name of [
      'package.json',
      'tsconfig.json',
      'tsconfig.check.json',
      'vitest.config.ts',
      'dist',
      'test',
    ]) {
      await cp(join(project, name), directory.file(name), { recursive: true, filter: isNeeded });
    }
    await cp(join(project, 'test/mutation/simulate.mjs'), directory.file('simulate.mjs'));
    await mkdir(directory.file('native'));
    for (const name of ['node_modules', 'native/build']) {
      if (existsSync(join(project, name))) await symlink(join(project, name), directory.file(name));
    }
    if (mutant)
      await writeFile(directory.file(join('dist', moduleOf(mutant.file))), await this.compiled(mutant));
    return directory;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#directory[Symbol.asyncDispose]();
  }

  async #compile(): Promise<void> {
    for (const mutant of this.#mutants) {
      const source = await readFile(join(project, 'src', mutant.file), 'utf8');
      await this.#write(join('sources/original', mutant.file), source);
      await this.#write(join('sources', this.#folder(mutant), mutant.file), mutate(mutant, source));
    }
    await this.#write('package.json', '{ "type": "module" }');
    const config = {
      extends: join(project, 'tsconfig.json'),
      compilerOptions: {
        ...{ rootDir: 'sources', outDir: 'compiled', incremental: false, tsBuildInfoFile: null },
        ...{ declaration: false, noCheck: true, noResolve: true, types: [] },
      },
      include: ['sources'],
    };
    await this.#write('tsconfig.json', JSON.stringify(config));
    const compiler = join(project, 'node_modules/typescript/bin/tsc');
    const result = await runProcess(process.execPath, [compiler, '-p', this.#directory.path]);
    if (result.exitCode !== 0) throw new Error(`mutants that are no programs:\n${result.stdout}`);
  }

  #folder(mutant: Mutant): string {
    return String(this.#mutants.indexOf(mutant));
  }

  async #write(name: string, text: string): Promise<void> {
    const path = this.#directory.file(name);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, text);
  }
}

function mutate({ name, file, edits }: Mutant, source: string): string {
  return edits.reduce((text, [find, replacement]) => {
    const parts = text.split(find);
    if (parts.length !== 2) {
      throw new Error(`"${name}": what it replaces is ${parts.length - 1} times in src/${file}:\n${find}`);
    }
    return parts.join(replacement);
  }, source);
}

function moduleOf(file: string): string {
  return file.replace(/\.ts$/, '.js');
}

/** Types and source maps take most of the room, and nobody reads them. */
function isNeeded(path: string): boolean {
  return !/\.(d\.ts|map|tsbuildinfo)$/.test(path);
}
