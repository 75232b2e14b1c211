import { readdir, readFile } from 'node:fs/promises';
import { getPriority } from 'node:os';
import { join } from 'node:path';
import { describe, expect } from 'vitest';
import { backup } from 'cofferdam';
import { clusterTest } from 'cofferdam/vitest';
import { MiB } from '#src/runtime/sizes';

const SIZE = 64 * MiB;

const test = clusterTest((directory) => ({
  servers: [{ id: 'a', device: { kind: 'file', path: join(directory, 'a.img'), create: SIZE } }],
}));

/** How many threads of this process have each priority; proc(5), the 19th field of stat. */
async function threadsByPriority(): Promise<Map<number, number>> {
  const counts = new Map<number, number>();
  for (const thread of await readdir('/proc/self/task')) {
    const stat = await readFile(`/proc/self/task/${thread}/stat`, 'utf8').catch(() => undefined);
    if (stat === undefined) continue;
    const nice = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[16]);
    counts.set(nice, (counts.get(nice) ?? 0) + 1);
  }
  return counts;
}

// Started with a priority as low as that itself, it has none to give up.
const own = getPriority();

describe.runIf(process.platform === 'linux' && own < 10)('the threads that copy', () => {
  test.for([
    { strategy: 'snapshot', expected: 2 },
    { strategy: 'hold', expected: 0 },
    { strategy: 'rolling', expected: 0 },
    { strategy: 'snapshot', givesWay: false, expected: 0 },
    { strategy: 'hold', givesWay: true, expected: 2 },
  ] as const)(
    'give way to others as they should: %j',
    async ({ expected, ...options }, { cluster, directory }) => {
      await cluster.client('a').write(0, Buffer.alloc(SIZE, 'x'));
      const before = await threadsByPriority();
      expect(before.get(10)).toBeUndefined();
      const during: Promise<Map<number, number>>[] = [];
      await backup({
        ...options,
        servers: cluster.servers,
        to: join(directory, 'x.cofferdam'),
        workers: 2,
        limitBytesPerSecond: 200 * MiB,
        onProgress: () => during.push(threadsByPriority()),
      });
      const [first] = await Promise.all(during);
      expect(first?.get(10) ?? 0).toBe(expected);
      // Only those: the thread that serves goes on as before.
      expect(getPriority()).toBe(own);
    },
  );
});
