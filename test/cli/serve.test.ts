import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { NbdDevice } from 'cofferdam';
import { Command, Option } from '#src/nbd/protocol';
import { parseNbdUri } from '#src/nbd/uri';
import { encodeInfo, encodeOption, Haggler, uint32 } from '../nbd/haggler.js';
import { encodeRequest } from '../nbd/wire.js';
import { differenceAt, randomBytes, readBytes } from '../support/bytes.js';
import { program, runCli } from '../support/cli.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/directory.js';
import { mount, run } from '../support/loop-device.js';
import { needs } from '../support/needs.js';
import { runProcess } from '../support/process.js';
import { startCli } from '../support/served.js';
import { expectDone, expectFailure } from './expectations.js';

const MiB = 2 ** 20;

const twoServers = `
servers:
  - { id: a, device: { kind: file, path: a.img, create: 4MiB } }
  - { id: b, device: { kind: file, path: b.img, create: 4MiB } }
volumes:
  - { id: stripes, kind: striped, stripe: 4096, of: [a, b] }
  - { id: twins, kind: mirrored, of: [a, b] }
`;

async function clusterFile(directory: TemporaryDirectory, yaml: string): Promise<string> {
  const path = directory.file('cluster.yaml');
  await writeFile(path, yaml);
  return path;
}

test('what it prints is what it exports, with sockets beside the file', async () => {
  await using directory = temporaryDirectory();
  const cluster = await clusterFile(directory, twoServers);
  await using served = await startCli(['serve', cluster]);
  const socket = directory.file('cofferdam.sock');
  expect(served.document).toMatchObject({
    ready: true,
    control: `unix:${directory.file('cofferdam-control.sock')}`,
    exports: [
      { name: 'a', kind: 'server', sizeBytes: 4 * MiB, uri: `nbd+unix:///a?socket=${socket}` },
      { name: 'b', kind: 'server', sizeBytes: 4 * MiB },
      { name: 'stripes', kind: 'volume', sizeBytes: 8 * MiB },
      { name: 'twins', kind: 'volume', sizeBytes: 4 * MiB },
    ],
  });
  for (const { uri, name } of served.document.exports) {
    await using device = await NbdDevice.open(uri);
    expect(device.sizeBytes).toBe(name === 'stripes' ? 8 * MiB : 4 * MiB);
  }
});

test('a volume is where its servers are', async () => {
  await using directory = temporaryDirectory();
  const cluster = await clusterFile(directory, twoServers);
  await using served = await startCli(['serve', cluster]);
  await using stripes = await NbdDevice.open(served.uriOf('stripes'));
  const bytes = randomBytes(3 * 4096, 1);
  await stripes.write(0, bytes);
  await using a = await NbdDevice.open(served.uriOf('a'));
  expect(differenceAt(await readBytes(a, 0, 4096), bytes.subarray(0, 4096))).toBeUndefined();
  expect(differenceAt(await readBytes(a, 4096, 4096), bytes.subarray(8192))).toBeUndefined();
  await using twins = await NbdDevice.open(served.uriOf('twins'));
  await twins.write(MiB, bytes);
  await using b = await NbdDevice.open(served.uriOf('b'));
  expect(differenceAt(await readBytes(b, MiB, bytes.length), bytes)).toBeUndefined();
});

test('a flood of clients that come and go, and of what is no NBD, is not a line in its log', async () => {
  await using directory = temporaryDirectory();
  const listen = `listen: 'nbd://127.0.0.1:0'\n`;
  await using served = await startCli(['serve', await clusterFile(directory, `${listen}${twoServers}`)]);
  const { address } = parseNbdUri(served.uriOf('a'));
  const openExport = encodeOption(Option.Go, encodeInfo('a'));
  const said = [
    Buffer.alloc(0),
    Buffer.from([0, 0]),
    Buffer.from('GET / HTTP/1.1\r\n\r\n'),
    Buffer.concat([uint32(3), encodeOption(Option.StartTls), Buffer.alloc(100, 1)]),
    Buffer.concat([
      uint32(3),
      openExport,
      encodeRequest({ command: Command.Write, payload: new Uint8Array(9) }),
    ]),
    Buffer.concat([uint32(3), openExport, Buffer.alloc(100, 1)]),
  ];
  for (let round = 0; round < 20; round++) {
    const clients = await Promise.all(Array.from({ length: 30 }, () => Haggler.connect(address)));
    clients.forEach(({ socket, stream }, i) => {
      stream.write(said[i % said.length] ?? '');
      // Half of them in order, half of them not.
      if (i % 4 < 2) socket.end();
      else socket.resetAndDestroy();
    });
    // Whoever can be served comes after all of them in the queue to be accepted.
    await using device = await NbdDevice.open(served.uriOf('a'), { connections: 1 });
    await device.read(0, new Uint8Array(512));
    for (const client of clients) client[Symbol.dispose]();
  }
  expect(await served.stop()).toEqual({ exitCode: 0, stderr: 'cofferdam: stopping\n' });
});

test('SIGTERM under writes: it exits with 0, and every write that was answered is in the files', async () => {
  await using directory = temporaryDirectory();
  const cluster = await clusterFile(directory, twoServers);
  await using served = await startCli(['serve', cluster]);
  await using device = await NbdDevice.open(served.uriOf('a'), { reconnectMs: 0 });
  let answered = 0;
  const writing = (async () => {
    for (let sector = 1; sector < 8000; sector++) {
      await device.write(sector * 512, new Uint8Array(512).fill(sector % 251));
      answered = sector;
    }
  })().catch(() => {});
  await expect.poll(() => answered).toBeGreaterThan(50);
  const { exitCode, stderr } = await served.stop();
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: 'cofferdam: stopping\n' });
  await writing;
  const file = await readFile(directory.file('a.img'));
  for (let sector = 1; sector <= answered; sector++) expect(file[sector * 512]).toBe(sector % 251);
  // Its sockets are gone, so it can be started again, and has what it had.
  await using again = await startCli(['serve', cluster]);
  await using reopened = await NbdDevice.open(again.uriOf('a'));
  expect((await readBytes(reopened, 512, 1))[0]).toBe(1);
});

test('a server that was killed is started again over its sockets; one that lives is not', async () => {
  await using directory = temporaryDirectory();
  const cluster = await clusterFile(directory, twoServers);
  const killed = await startCli(['serve', cluster]);
  await killed.kill();
  expect((await stat(directory.file('cofferdam.sock'))).isSocket()).toBe(true);
  await using _served = await startCli(['serve', cluster]);
  expectFailure(await runCli(['serve', cluster]), 'DEVICE_BUSY');
});

test('with --only, each process serves a part, and a volume crosses them', async () => {
  await using directory = temporaryDirectory();
  const cluster = await clusterFile(
    directory,
    `
servers:
  - { id: a, device: { kind: file, path: a.img, create: 4MiB }, listen: 'nbd+unix:///?socket=a.sock', control: ca }
  - { id: b, device: { kind: file, path: b.img, create: 4MiB }, listen: 'nbd+unix:///?socket=b.sock', control: cb }
volumes:
  - { id: stripes, kind: striped, stripe: 4096, of: [a, b] }
`,
  );
  expectFailure(await runCli(['serve', cluster]), 'BAD_CONFIG');
  expectFailure(await runCli(['serve', cluster, '--only', 'c']), 'UNKNOWN_DEVICE');
  await using a = await startCli(['serve', cluster, '--only', 'a']);
  await using _b = await startCli(['serve', cluster, '--only', 'b']);
  await using volume = await startCli(['serve', cluster, '--only', 'stripes']);
  expect(a.document.exports.map(({ name }) => name)).toEqual(['a']);
  expect(volume.document).toMatchObject({
    control: null,
    exports: [{ name: 'stripes', sizeBytes: 8 * MiB }],
  });
  await using stripes = await NbdDevice.open(volume.uriOf('stripes'));
  await stripes.write(0, new Uint8Array(8192).fill(7));
  await stripes.flush();
  for (const name of ['a.img', 'b.img']) expect((await readFile(directory.file(name)))[4095]).toBe(7);
});

needs('nbd-client', 'nbdinfo')('over TCP others list and open the exports', async () => {
  await using directory = temporaryDirectory();
  const cluster = await clusterFile(directory, `listen: nbd://127.0.0.1:0/\n${twoServers}`);
  await using served = await startCli(['serve', cluster]);
  const uri = new URL(served.uriOf('a').replace('nbd:', 'http:'));
  const listed = await run('nbd-client', '-l', '127.0.0.1', uri.port);
  expect(listed).toContain('\na\nb\nstripes: striped over a, b\ntwins: mirrored over a, b\n');
  expect(await run('nbdinfo', '--size', served.uriOf('a'))).toBe(`${4 * MiB}\n`);
});

test('a served cluster is backed up by its file and by its control address alike', async () => {
  await using directory = temporaryDirectory();
  const cluster = await clusterFile(directory, twoServers);
  await using served = await startCli(['serve', cluster]);
  await using device = await NbdDevice.open(served.uriOf('stripes'));
  await device.write(0, randomBytes(8 * MiB, 1));
  const options = { cwd: directory.path };
  const results = [
    await runCli(['backup', '--to', 'x', '--cluster', cluster, '--json'], options),
    await runCli(['backup', '--to', 'x', '--control', 'cofferdam-control.sock', '--json'], options),
  ];
  for (const [index, result] of results.entries()) {
    expectDone(result);
    expect(JSON.parse(result.stdout)).toMatchObject({
      image: 'x',
      generation: index + 1,
      consistency: 'group',
      devices: [{ id: 'a' }, { id: 'b' }],
    });
  }
  expectDone(await runCli(['restore', 'x', '--to-dir', 'restored'], options));
  for (const name of ['a.img', 'b.img']) {
    const restored = await readFile(directory.file(`restored/${name}`));
    expect(differenceAt(restored, await readFile(directory.file(name)))).toBeUndefined();
  }
  expectFailure(await runCli(['backup', '--to', 'a.img', '--cluster', cluster], options), 'SOURCE_IS_TARGET');
  await served.stop();
  expectFailure(await runCli(['backup', '--to', 'x', '--cluster', cluster], options), 'CONNECTION_FAILED');
});

describe('a cluster file that is wrong is refused with the line', () => {
  const servers = 'servers:\n  - { id: a, device: a.img }\n';
  test.each([
    [
      'an unknown server in a volume',
      `${servers}volumes:\n  - { id: v, kind: striped, of: [a, z] }\n`,
      /line 4: .*no server z/,
    ],
    [
      'a server twice in a volume',
      `${servers}volumes:\n  - { id: v, kind: mirrored, of: [a, a] }\n`,
      /line 4: .*twice/,
    ],
    [
      'an ID used twice',
      `${servers}volumes:\n  - { id: a, kind: striped, of: [a] }\n`,
      /line 4: .*the ID a is used twice/,
    ],
    ['HTTP without a token', `control: http://127.0.0.1:8000\n${servers}`, /line 1: .*needs a token/],
    ['a short token', `token: short\n${servers}`, /line 1: .*at least 16/],
    ['a listen address with an export', `listen: nbd://127.0.0.1/disk\n${servers}`, /line 1: .*export/],
    [
      'a listen address of another protocol',
      `listen: http://127.0.0.1\n${servers}`,
      /line 1: .*not a scheme of NBD/,
    ],
    [
      'one address with and without TLS',
      `listen: nbd://127.0.0.1\nservers:\n  - { id: a, device: a.img, listen: 'nbds://127.0.0.1' }\n`,
      /line 3: .*TLS/,
    ],
    ['a field that there is not', `${servers}volume: []\n`, /volume/],
  ])('%s', async (_, yaml, message) => {
    await using directory = temporaryDirectory();
    const result = await runCli(['serve', await clusterFile(directory, yaml)]);
    expectFailure(result, 'BAD_CONFIG');
    expect(result.stderr).toMatch(message);
  });
});

test('--ready-fd takes no descriptor that was not handed to the program, such as that of a disk', async () => {
  await using directory = temporaryDirectory();
  const cluster = await clusterFile(directory, twoServers);
  // Pipes and others of Node's own, those that the disks would get, and one that is not open at all.
  for (const number of [3, 5, 6, 8, 10, 14, 18, 19, 20, 21, 22, 23, 24, 25, 99]) {
    const result = await runCli(['serve', cluster, '--ready-fd', String(number)]);
    expect(expectFailure(result, 'BAD_ARGUMENT', 2)).toContain(`--ready-fd ${number}`);
    expect(result.stdout).toBe('');
  }
  expect(await readdir(directory.path)).toEqual(['cluster.yaml']);
}, 60_000);

test.each([
  ['a file', '9>ready'],
  ['one that Node had to go around', '17>ready'],
  ['a duplicate of stdout', '5>&1'],
])('--ready-fd takes %s that a shell hands over', async (_, redirection) => {
  await using directory = temporaryDirectory();
  const cluster = await clusterFile(directory, twoServers);
  const number = /^\d+/.exec(redirection)?.[0] ?? '';
  const script = `"$@" --ready-fd ${number} ${redirection} & until grep -q READY ready; do sleep 0.05; done; kill $!; wait $!`;
  const args = [process.execPath, program, 'serve', cluster];
  const result = await runProcess('bash', ['-c', `{ ${script}; } | tee -a ready`, 'bash', ...args], {
    cwd: directory.path,
  });
  expect(result.stderr).toMatch(/^(grep: ready: .*\n)*cofferdam: stopping\n$/);
  const ready = await readFile(directory.file('ready'), 'utf8');
  expect(ready.match(/^READY$/gm)).toHaveLength(1);
});

needs('root', 'unshare')('--ready-fd takes what a shell hands over where there is no /proc', async () => {
  await using directory = temporaryDirectory();
  const cluster = await clusterFile(directory, twoServers);
  const script =
    'mount -t tmpfs none /proc; "$@" 3>ready & until grep -qs READY ready; do sleep 0.05; done; kill $!; wait $!';
  const args = [process.execPath, program, 'serve', cluster, '--ready-fd', '3'];
  const result = await runProcess('unshare', ['--mount', 'bash', '-c', script, 'bash', ...args], {
    cwd: directory.path,
  });
  expect(result).toMatchObject({ exitCode: 0, stderr: 'cofferdam: stopping\n' });
});

test('--ready-fd refuses what is open for reading only', async () => {
  await using directory = temporaryDirectory();
  const cluster = await clusterFile(directory, twoServers);
  const result = await runProcess('sh', [
    '-c',
    '"$@" --ready-fd 3 3<"$0"',
    cluster,
    process.execPath,
    program,
    'serve',
    cluster,
  ]);
  expect(expectFailure(result, 'BAD_ARGUMENT', 2)).toContain('cannot be written to');
});

needs('root')('a volume that cannot be flushed at the end is a failure, and is told as one', async () => {
  await using directory = temporaryDirectory();
  const small = directory.file('small');
  await mkdir(small);
  await using _mount = await mount('-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', small);
  const cluster = await clusterFile(
    directory,
    'servers:\n  - { id: a, volatileCache: true, device: { kind: file, path: small/a.img, create: 64MiB } }\n',
  );
  await using served = await startCli(['serve', cluster]);
  await using device = await NbdDevice.open(served.uriOf('a'), { reconnectMs: 0 });
  await device.write(0, new Uint8Array(4 * MiB).fill(1));
  const { exitCode, stderr } = await served.stop();
  expect(stderr).toMatch(/^cofferdam: stopping\ncofferdam: DEVICE_FULL: .*a\.img.*\n$/);
  expect(exitCode).toBe(1);
});
