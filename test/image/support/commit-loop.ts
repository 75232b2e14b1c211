/**
 * Run as a program, it adds generations to an image until it is killed, and prints the number of each once it is there.
 * What generation n holds follows from n, so whoever killed it can check that.
 */
import { writeSync } from 'node:fs';
import { argv } from 'node:process';
import { openImage } from '#src/backup/image/open';
import { Random } from '#src/runtime/random';
import { randomDevice, writeGeneration, type DeviceContent } from './generations.js';

/** What generation `n` holds. */
export function contentOf(n: number): DeviceContent[] {
  return [
    randomDevice(new Random(n), 'a', 200_000 + n, 4096, 0.5),
    randomDevice(new Random(-n), 'b', 300_000, 65536, 1),
  ];
}

const path = argv[2];
if (argv[1]?.includes('commit-loop') && path !== undefined) {
  const image = await openImage(path, { write: true, create: true });
  for (;;) {
    const next = (image.generations.at(-1)?.generation ?? 0) + 1;
    // Not through a stream: what was written must be out when the process is killed.
    writeSync(1, `${await writeGeneration(image, contentOf(next))}\n`);
  }
}
