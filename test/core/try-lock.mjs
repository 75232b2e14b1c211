// Tries to lock a file from a process of its own and prints the answer.
import { openSync } from 'node:fs';
import { loadCore } from '../../dist/core/load.js';

const [path = '', mode] = process.argv.slice(2);
const core = await loadCore('native');
process.stdout.write(core.lock(openSync(path, 'r+'), mode === 'shared' ? 'shared' : 'exclusive'));
