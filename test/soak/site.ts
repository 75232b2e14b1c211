import { writeFile } from 'node:fs/promises';
import type { TemporaryDirectory } from '../support/directory.js';
import { Member } from './member.js';

/** A server of the cluster. */
interface ServerPlan {
  id: string;
  sizeMiB: number;
  /** Whether it loses what nobody flushed when its power or its process goes. */
  isVolatile: boolean;
}

/** The witness writes to these; the size of their areas is that of the devices. */
export const WITNESSED = ['a', 'b', 'c'] as const;
export const WITNESSED_BYTES = 4 * 2 ** 20;
/** fio and qemu-io write to this volume, striped across two servers. */
export const VOLUME = 'v';

const steady: readonly ServerPlan[] = [
  { id: 'a', sizeMiB: 4, isVolatile: true },
  { id: 'd', sizeMiB: 8, isVolatile: false },
  { id: 'e', sizeMiB: 8, isVolatile: true },
];
const mortal: readonly ServerPlan[] = [
  { id: 'b', sizeMiB: 4, isVolatile: false },
  { id: 'c', sizeMiB: 4, isVolatile: true },
];

/**
 * The cluster of a soak, in two processes. `mortal` is killed again and again. `steady` never is, so that it shows what
 * a process comes to hold in the long run; its power is cut all the same.
 */
export class Site implements AsyncDisposable {
  private constructor(
    readonly clusterPath: string,
    readonly steady: Member,
    readonly mortal: Member,
  ) {}

  static async start(directory: TemporaryDirectory): Promise<Site> {
    const clusterPath = directory.file('cluster.yaml');
    await writeFile(clusterPath, clusterFile());
    const member = (name: string, servers: readonly ServerPlan[], volumes: readonly string[]): Member => {
      const ids = servers.map(({ id }) => id);
      const args = ['serve', clusterPath, '--only', ...ids, ...volumes];
      return new Member(name, ids, args, directory.file(`${name}-control.sock`));
    };
    const site = new Site(clusterPath, member('steady', steady, [VOLUME]), member('mortal', mortal, []));
    await Promise.all(site.members.map((each) => each.start()));
    return site;
  }

  get members(): readonly Member[] {
    return [this.steady, this.mortal];
  }

  memberOf(id: string): Member {
    return this.mortal.servers.includes(id) ? this.mortal : this.steady;
  }

  isVolatile(id: string): boolean {
    return [...steady, ...mortal].some((server) => server.id === id && server.isVolatile);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.members.map((member) => member[Symbol.asyncDispose]()));
  }
}

function clusterFile(): string {
  const lines = Object.entries({ steady, mortal }).flatMap(([name, servers]) =>
    servers.map(
      ({ id, sizeMiB, isVolatile }) =>
        `  - { id: ${id}, device: { kind: file, path: ${id}.img, create: ${sizeMiB}MiB }, volatileCache: ${isVolatile}, ` +
        `listen: 'nbd+unix:///?socket=${name}.sock', control: ${name}-control.sock }`,
    ),
  );
  const volume = `  - { id: ${VOLUME}, kind: striped, of: [d, e], listen: 'nbd+unix:///?socket=steady.sock' }`;
  return ['servers:', ...lines, 'volumes:', volume, ''].join('\n');
}
