/** Text in which everything that means something to HTML is meant. */
export class Html {
  constructor(readonly text: string) {}
}

/** HTML from a template. Everything put into it is text and escaped, unless it is {@link Html} itself. */
export function html(
  parts: TemplateStringsArray,
  ...values: readonly (string | number | Html | readonly Html[])[]
): Html {
  return new Html(parts.map((part, i) => part + (i < values.length ? textOf(values[i] ?? '') : '')).join(''));
}

function textOf(value: string | number | Html | readonly Html[]): string {
  if (typeof value === 'object') {
    return value instanceof Html ? value.text : value.map(({ text }) => text).join('\n');
  }
  return String(value).replaceAll(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
