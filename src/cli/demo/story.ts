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

  say(text: string): void {
    this.output.tell(text.replaceAll(/^/gm, '   '));
  }

  good(text: string): void {
    this.say(`${this.output.paint('green', '✓')} ${text}`);
  }

  bad(text: string): void {
    this.say(`${this.output.paint('red', '✗')} ${text}`);
  }
}
