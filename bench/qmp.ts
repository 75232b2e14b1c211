import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';

/** What QEMU says: a greeting, an answer, or an event. */
interface Message {
  QMP?: object;
  return?: unknown;
  error?: { desc: string };
  event?: string;
  data?: Readonly<Record<string, unknown>>;
}

type EventListener = (name: string, data: Readonly<Record<string, unknown>>) => void;

/** A client of QEMU's monitor protocol: a JSON document per line, answers in the order of the commands. */
export class QmpClient implements Disposable {
  readonly #socket: Socket;
  readonly #waiting: { resolve: (answer: unknown) => void; reject: (error: Error) => void }[] = [];
  readonly #listeners = new Set<EventListener>();

  private constructor(socket: Socket) {
    this.#socket = socket;
    createInterface({ input: socket }).on('line', (line) => this.#receive(JSON.parse(line) as Message));
    socket.on('close', () => {
      for (const { reject } of this.#waiting.splice(0)) reject(new Error('QEMU closed its monitor'));
    });
  }

  static async connect(path: string): Promise<QmpClient> {
    const socket = connect(path);
    await once(socket, 'connect');
    const client = new QmpClient(socket);
    await client.execute('qmp_capabilities', {});
    return client;
  }

  execute(command: string, parameters: object): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: parameters })}\n`);
    });
  }

  /** Calls a listener with every event from now on. Disposing of the subscription ends it. */
  listen(listener: EventListener): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  #receive({ QMP: greeting, return: answer, error, event, data = {} }: Message): void {
    if (greeting !== undefined) return;
    if (event !== undefined) {
      for (const listener of this.#listeners) listener(event, data);
      return;
    }
    const waiting = this.#waiting.shift();
    if (error) waiting?.reject(new Error(`QEMU: ${error.desc}`));
    else waiting?.resolve(answer);
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }
}
