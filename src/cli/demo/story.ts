import type { Output } from '../output.js';

/** Tells what happens in numbered steps. */
export class Story {
  #steps = 0;

  constructor(private readonly output: Output) {}

  title(text: string): void {
    this.output.tell(this.output.paint('bold', text));
  }

  step(text: string): void {
    this.output.tell();
    this.output.tell(`${this.output.paint('bold', `${++this.#steps}.`)} ${this.output.paint('bold', text)}`);
  }

  /** Indented under the step, and wrapped. */
  say(text: string): void {
    for (const line of text.split('\n')) this.output.tell(wrapped(`   ${line}`));
  }

  good(text: string): void {
    this.say(`${this.output.paint('green', '✓')} ${text}`);
  }

  bad(text: string): void {
    this.say(`${this.output.paint('red', '✗')} ${text}`);
  }
}

const COLUMNS = 96;

/** The text on lines of at most so many columns, all indented as the first. */
function wrapped(text: string): string {
  const indent = /^ */.exec(text)?.[0] ?? '';
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(/(?<=\S) /)) {
    if (line !== '' && line.length + 1 + word.length > COLUMNS) {
      lines.push(line);
      line = indent + word;
    } else {
      line = line === '' ? word : `${line} ${word}`;
    }
  }
  return [...lines, line].join('\n');
}
