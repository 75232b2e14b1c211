// Writes files into a folder until it is told to stop, and tells of each, by its name and hash, once it is durable.
import { createHash, randomBytes } from 'node:crypto';
import { closeSync, fsyncSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';

const [folder = '.', writer = ''] = process.argv.slice(2);
const directory = openSync(folder, 'r');
let isStopping = false;
process.stdin.on('data', () => {
  isStopping = true;
});

for (let number = 0; !isStopping; number++) {
  const name = `${writer}-${number}`;
  const content = randomBytes(1 + Math.floor(Math.random() * 30_000));
  const file = openSync(join(folder, name), 'w');
  writeSync(file, content);
  fsyncSync(file);
  closeSync(file);
  fsyncSync(directory);
  process.stdout.write(`${name} ${createHash('sha256').update(content).digest('hex')}\n`);
  await new Promise((resolve) => setTimeout(resolve, 10));
}
process.exit(0);
