import type { WriteStream } from 'node:tty';
import { styleText } from 'node:util';
import { invariant } from '../runtime/errors.js';
import { exitCodeOf, failureOf } from './failure.js';

export type Style = Parameters<typeof styleText>[0];

/**
 * What the program says and where. Stdout has the result: text for people or, with --json, exactly one JSON document.
 * Stderr has everything else: progress, notes, warnings and at most one line `cofferdam: CODE: what happened`.
 */
export class Output {
  readonly warnings: string[] = [];
  exitCode = 0;
  #hasResult = false;

  constructor(
    readonly json: boolean,
    private readonly stdout: WriteStream,
    readonly stderr: WriteStream,
  ) {}

  /** A line of a story that is told while it happens. Part of the result for people, a note beside a JSON document. */
  tell(line = ''): void {
    (this.json ? this.stderr : this.stdout).write(`${line}\n`);
  }

  /** Something worth knowing that is not part of the result. */
  note(line: string): void {
    this.stderr.write(`${line}\n`);
  }

  warn(messages: readonly string[]): void {
    for (const message of messages) {
      if (this.warnings.includes(message)) continue;
      this.warnings.push(message);
      this.stderr.write(`cofferdam: warning: ${message}\n`);
    }
  }

  /**
   * The result of a command.
   *
   * @param document what --json prints; `warnings` is added to it.
   * @param failure for a command that has a result and failed all the same.
   */
  result(document: object, text: string, failure?: Error): void {
    if (this.json) this.#print({ ...document, ...(failure ? { error: failureOf(failure) } : {}) });
    else if (text !== '') this.stdout.write(`${text}\n`);
    if (failure) this.complain(failure);
  }

  /** Ends a command that has no result. */
  fail(error: unknown): void {
    if (this.json && !this.#hasResult) this.#print({ error: failureOf(error) });
    this.complain(error);
  }

  /** The one line about a failure, and the exit code that goes with it. */
  complain(error: unknown): void {
    const failure = failureOf(error);
    this.exitCode = exitCodeOf(failure);
    this.stderr.write(`cofferdam: ${failure.code}: ${failure.message}\n`);
    if (process.env['COFFERDAM_DEBUG'] && error instanceof Error) this.stderr.write(`${error.stack}\n`);
  }

  /** Colours a text for stdout, where that is a terminal and NO_COLOR is not set. */
  paint(style: Style, text: string): string {
    return this.json ? text : styleText(style, text, { stream: this.stdout });
  }

  #print(document: object): void {
    invariant(!this.#hasResult, 'a command printed two results');
    this.#hasResult = true;
    this.stdout.write(`${JSON.stringify({ ...document, warnings: this.warnings }, null, 2)}\n`);
  }
}
