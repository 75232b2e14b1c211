import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * All files under a directory, sorted, as paths within `root`.
 *
 * @param {string} root
 * @param {string} directory within `root`.
 * @param {string[]} [without] names of sub-directories to leave out.
 * @returns {string[]}
 */
export function filesUnder(root, directory, without = []) {
  const files = [];
  for (const entry of readdirSync(join(root, directory), { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (!entry.isDirectory()) files.push(path);
    else if (!without.includes(entry.name)) files.push(...filesUnder(root, path));
  }
  return files.sort();
}

/**
 * A hash over the names and contents of files and over further facts. Times do not count: a checkout changes them
 * without changing anything.
 *
 * @param {string} root
 * @param {string[]} files within `root`.
 * @param {...string} facts
 * @returns {string}
 */
export function fingerprint(root, files, ...facts) {
  const hash = createHash('sha256').update(JSON.stringify(facts));
  for (const file of files) {
    const content = readFileSync(join(root, file));
    // The length keeps the end of one file apart from the start of the next.
    hash.update(`\n${file}\n${content.length}\n`).update(content);
  }
  return hash.digest('hex');
}

/**
 * The value of a JSON file, or nothing if there is none or it was cut short.
 *
 * @param {string} path
 * @returns {any}
 */
export function readJsonIfAny(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    return undefined;
  }
}
