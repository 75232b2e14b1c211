import { setTimeout as delay } from 'node:timers/promises';
import { ControlClient } from 'cofferdam';
import { startCli, type ServedCli } from '../support/served.js';
import type { Life } from './counts.js';
import { Resources } from './resources.js';

/** How long a barrier or a job may be left after whoever wanted it is gone: the longest lease is 15 s. */
const LEFT_MS = 35_000;

/** A process of the cluster: `cofferdam serve --only`, which can be killed and started again at the same place. */
export class Member {
  readonly lives: Life[] = [];
  #served: ServedCli | undefined;
  #resources: Resources | undefined;

  constructor(
    readonly name: string,
    /** IDs of its servers. */
    readonly servers: readonly string[],
    private readonly args: readonly string[],
    readonly controlPath: string,
    readonly control = new ControlClient({ address: { kind: 'unix', path: controlPath } }),
  ) {}

  async start(): Promise<void> {
    this.#served = await startCli(this.args);
    this.#resources = new Resources(this.name, this.#served.pid);
    await this.#resources.sample();
  }

  uriOf(exportName: string): string {
    return this.#running.uriOf(exportName);
  }

  /** @throws Error if it has died, or has grown without bound. */
  async sample(): Promise<void> {
    await this.#resources?.sample();
  }

  /** kill -9 */
  async kill(): Promise<void> {
    this.#endLife();
    await this.#running.kill();
    this.#served = undefined;
  }

  /** Lets it do nothing at all for a while. */
  async freeze(ms: number): Promise<void> {
    const { pid } = this.#running;
    process.kill(pid, 'SIGSTOP');
    await delay(ms);
    process.kill(pid, 'SIGCONT');
  }

  /** @throws Error if a barrier is still up, or a backup still running, when the last lease must have run out. */
  async becomeQuiet(): Promise<void> {
    await this.#until('a barrier up or a backup running', async () => {
      const { servers, backups } = await this.control.status();
      return (
        servers.every(({ barrierUp }) => !barrierUp) && backups.every(({ state }) => state !== 'running')
      );
    });
  }

  /** @throws Error if something is kept for a coordinator that is gone, or the end is not in order. */
  async stop(): Promise<void> {
    await this.#until('a snapshot', async () =>
      (await this.control.status()).servers.every((s) => s.snapshots === 0),
    );
    await this.sample();
    this.#endLife();
    await this.control.close();
    const { exitCode, stderr } = await this.#running.stop();
    this.#served = undefined;
    if (exitCode !== 0 || stderr.trim() !== 'cofferdam: stopping')
      throw new Error(`${this.name} ended with ${exitCode}: ${stderr}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.control.close();
    await this.#served?.kill();
  }

  async #until(what: string, isSo: () => Promise<boolean>): Promise<void> {
    const deadline = Date.now() + LEFT_MS;
    while (!(await isSo())) {
      if (Date.now() > deadline)
        throw new Error(`${this.name} still has ${what} ${LEFT_MS} ms after its coordinator`);
      await delay(100);
    }
  }

  #endLife(): void {
    if (this.#resources) this.lives.push(this.#resources.life);
    this.#resources = undefined;
  }

  get #running(): ServedCli {
    if (!this.#served) throw new Error(`${this.name} is not running`);
    return this.#served;
  }
}
