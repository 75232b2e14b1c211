import { spawn } from 'node:child_process';
import { ToolFailure } from './tool.mjs';

/**
 * Runs a command in this process's place: on its terminal, with its signals, and this process ends as it ended.
 *
 * @param {string} command
 * @param {string[]} args
 * @param {Record<string, string>} env added to the environment.
 * @returns {Promise<void>}
 */
export function runCommand(command, args, env) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: 'inherit', env: { ...process.env, ...env } });
    // A terminal sends SIGINT to the command as well; here it only must not end the waiting.
    process.on('SIGINT', () => {});
    for (const signal of /** @type {const} */ (['SIGTERM', 'SIGHUP'])) {
      process.on(signal, () => child.kill(signal));
    }
    child.on('error', (error) => reject(new ToolFailure(`${command}: ${error.message}`)));
    child.on('close', (code, signal) => {
      process.exitCode = code ?? 1;
      if (signal) {
        process.removeAllListeners(signal);
        process.kill(process.pid, signal);
      }
      resolve();
    });
  });
}
