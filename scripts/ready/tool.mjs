import { spawn, spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

/** A step that went wrong for a reason outside this project; its message is all there is to show. */
export class ToolFailure extends Error {
  /**
   * @param {string} message
   * @param {string} [output] all that the tool printed.
   */
  constructor(message, output = '') {
    super(message);
    this.output = output;
  }
}

/** @param {string} line */
export function say(line) {
  process.stderr.write(`ready: ${line}\n`);
}

/**
 * Runs a tool and keeps what it prints to itself.
 *
 * @param {string} root directory to run it in.
 * @param {string} command on the PATH, or a path within `root`.
 * @param {string[]} args
 * @returns {Promise<void>} rejects with a {@link ToolFailure} that has the output if the tool fails.
 */
export function runTool(root, command, args) {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, NO_COLOR: '1' };
    const child = spawn(command, args, { cwd: root, env, stdio: ['ignore', 'pipe', 'pipe'] });
    /** @type {Buffer[]} */
    const chunks = [];
    child.stdout.on('data', (chunk) => chunks.push(chunk));
    child.stderr.on('data', (chunk) => chunks.push(chunk));
    child.on('error', (error) => reject(new ToolFailure(`${command}: ${error.message}`)));
    child.on('close', (code, signal) => {
      if (code === 0) return resolve();
      const end = signal ? `was ended by ${signal}` : `failed with exit code ${code}`;
      const output = Buffer.concat(chunks).toString('utf8');
      reject(new ToolFailure(`${[command, ...args].join(' ')} ${end}\n${output}`, output));
    });
  });
}

/**
 * Where a command is on the PATH, found without starting anything.
 *
 * @param {string} command
 * @returns {string | undefined}
 */
export function findCommand(command) {
  for (const directory of (process.env['PATH'] ?? '').split(delimiter)) {
    const path = join(directory, command);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not here.
    }
  }
  return undefined;
}

/**
 * The first line that a command prints, or nothing if it fails.
 *
 * @param {string} command
 * @param {string[]} args
 * @returns {string | undefined}
 */
export function firstLine(command, args) {
  const result = spawnSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  return result.status === 0 ? result.stdout.split('\n')[0]?.trim() : undefined;
}
