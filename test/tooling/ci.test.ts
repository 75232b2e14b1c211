import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { temporaryDirectory } from '../support/directory.js';
import { runProcess } from '../support/process.js';

const project = fileURLToPath(new URL('../..', import.meta.url));

/** What a machine does when `.ci/run` calls it; by default all is well. Commands are for a shell. */
interface Machine {
  ready?: string;
  lint?: string;
  nativeTests?: string;
  packageTests?: string;
  userId?: number;
  /** Programs that are not there. */
  lacks?: readonly string[];
}

interface Outcome {
  exitCode: number | undefined;
  /** The last line of stdout. */
  verdict: string | undefined;
  stderr: string;
  /** The calls of apt-get. */
  aptGet: string[];
}

/** What cargo prints for one test program. */
function cargoResult(passed: number, failed: number, ignored = 0): string {
  const counts = `${passed} passed; ${failed} failed; ${ignored} ignored; 0 measured; 0 filtered out`;
  return `echo "test result: ${failed > 0 ? 'FAILED' : 'ok'}. ${counts}; finished in 0.1s"`;
}

/** Leaves the report that vitest writes. */
function vitestReport(passed: number, failed: number, skipped = 0): string {
  const report = {
    numPassedTests: passed,
    numFailedTests: failed,
    numPendingTests: skipped,
    numTodoTests: 0,
  };
  return `echo '${JSON.stringify(report)}' > "$report"`;
}

/** Runs the project's `.ci/run` where every program that it calls is a stand-in. */
async function runCi(machine: Machine): Promise<Outcome> {
  await using directory = temporaryDirectory();
  const programs = directory.file('programs');
  const program = (name: string, body: string): void => {
    if (machine.lacks?.includes(name)) return;
    writeFileSync(join(programs, name), `#!/bin/sh\n${body}\n`);
    chmodSync(join(programs, name), 0o755);
  };
  mkdirSync(programs);
  for (const name of ['bash', 'sh', 'env', 'dirname', 'mktemp', 'rm', 'tee', 'awk', 'cat']) {
    symlinkSync(join('/usr/bin', name), join(programs, name));
  }
  for (const name of ['cargo', 'mke2fs', 'e2fsck', 'losetup', 'cc', 'curl', 'openssl', 'postgres'])
    program(name, '');
  for (const name of ['qemu-img', 'qemu-io', 'qemu-nbd', 'nbdinfo', 'nbdcopy', 'nbdfuse']) program(name, '');
  for (const name of [
    'fusermount3',
    'nbdkit',
    'nbd-server',
    'nbd-client',
    'fio',
    'spin',
    'qemu-storage-daemon',
    'xxhsum',
    'b3sum',
  ])
    program(name, '');
  program('id', `echo ${machine.userId ?? 0}`);
  program('apt-get', `echo "$*" >> ${directory.file('apt')}`);
  program(
    'node',
    `case "$1" in scripts/*) ${machine.ready ?? 'true'} ;; *) exec ${process.execPath} "$@" ;; esac`,
  );
  program(
    'npm',
    `for last; do true; done; report="\${last#--outputFile.json=}"
case "$*" in
  *check:lint) ${machine.lint ?? 'true'} ;;
  *test:native) ${machine.nativeTests ?? cargoResult(2, 0)} ;;
  test*) ${machine.packageTests ?? vitestReport(5, 0)} ;;
esac`,
  );
  const script = directory.file('clone/.ci/run');
  mkdirSync(dirname(script), { recursive: true });
  cpSync(join(project, '.ci/run'), script);

  const { exitCode, stdout, stderr } = await runProcess(script, [], { env: { PATH: programs } });
  const aptLog = directory.file('apt');
  const aptGet = existsSync(aptLog) ? readFileSync(aptLog, 'utf8').trim().split('\n') : [];
  return { exitCode, verdict: stdout.trimEnd().split('\n').at(-1), stderr, aptGet };
}

describe.runIf(process.platform === 'linux')('.ci/run', () => {
  test.each<[string, Machine, { exitCode: number; verdict: string }]>([
    ['all is well', {}, { exitCode: 0, verdict: '7 passed, 0 failed' }],
    [
      'there are several native test programs',
      { nativeTests: `${cargoResult(2, 0)}; ${cargoResult(30, 0)}` },
      { exitCode: 0, verdict: '37 passed, 0 failed' },
    ],
    [
      'tests are skipped',
      { nativeTests: cargoResult(2, 0, 1), packageTests: vitestReport(5, 0, 3) },
      { exitCode: 0, verdict: '7 passed, 0 failed, 4 skipped' },
    ],
    [
      'tests of the package fail',
      { packageTests: `${vitestReport(4, 1)}; exit 1` },
      { exitCode: 1, verdict: '6 passed, 1 failed' },
    ],
    [
      'the package has a failure outside its tests',
      { packageTests: `${vitestReport(5, 0)}; exit 1` },
      { exitCode: 1, verdict: '7 passed, 1 failed' },
    ],
    ['vitest leaves no report', { packageTests: 'exit 1' }, { exitCode: 1, verdict: '2 passed, 1 failed' }],
    [
      'vitest runs no test but says that all is well',
      { packageTests: vitestReport(0, 0) },
      { exitCode: 1, verdict: '2 passed, 1 failed' },
    ],
    [
      'native tests fail',
      { nativeTests: `${cargoResult(1, 1)}; exit 101` },
      { exitCode: 1, verdict: '6 passed, 1 failed' },
    ],
    [
      'the native tests do not compile',
      { nativeTests: 'exit 101' },
      { exitCode: 1, verdict: '5 passed, 1 failed' },
    ],
    ['a check fails', { lint: 'exit 1' }, { exitCode: 1, verdict: '7 passed, 1 failed' }],
    [
      'a check and a test fail',
      { lint: 'exit 1', packageTests: `${vitestReport(4, 1)}; exit 1` },
      { exitCode: 1, verdict: '6 passed, 2 failed' },
    ],
    ['the build fails', { ready: 'exit 1' }, { exitCode: 1, verdict: '0 passed, 1 failed' }],
    ['there is no Rust', { lacks: ['cargo'] }, { exitCode: 1, verdict: '0 passed, 1 failed' }],
  ])('counts, when %s', async (_, machine, expected) => {
    expect(await runCi(machine)).toMatchObject(expected);
  });

  test('tells the tests that they are in CI, and the build that the native core is needed', async () => {
    const machine = {
      ready: '[ "$COFFERDAM_CORE" = native ]',
      packageTests: `[ -n "$CI" ] && [ -z "$COFFERDAM_CORE" ] && ${vitestReport(5, 0)}`,
    };
    expect(await runCi(machine)).toMatchObject({ exitCode: 0 });
  });

  test('names the program that is missing', async () => {
    expect((await runCi({ lacks: ['node'] })).stderr).toContain('There is no node on the PATH');
    expect((await runCi({ lacks: ['cargo'] })).stderr).toContain('There is no cargo on the PATH');
  });

  test('installs what is missing, and nothing else', async () => {
    expect((await runCi({})).aptGet).toEqual([]);
    expect((await runCi({ lacks: ['qemu-img', 'nbdcopy'] })).aptGet).toEqual([
      'update -qq',
      'install -y -qq --no-install-recommends qemu-utils libnbd-bin',
    ]);
    expect((await runCi({ lacks: ['qemu-img'], userId: 1000 })).aptGet).toEqual([]);
  });
});
