import Table from 'cli-table3';

/** Columns of text under their names, without lines. Columns whose name begins with `>` are aligned to the right. */
export function columns(names: readonly string[], rows: readonly (readonly string[])[]): string {
  const table = new Table({
    chars: borderless,
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 2 },
    head: names.map((name) => name.replace(/^>/, '')),
    colAligns: names.map((name) => (name.startsWith('>') ? 'right' : 'left')),
  });
  for (const row of rows) table.push([...row]);
  return trimLines(table.toString());
}

/** Names and what they stand for, one per line, indented. */
export function facts(pairs: readonly (readonly [name: string, value: string])[]): string {
  const width = Math.max(...pairs.map(([name]) => name.length));
  return pairs.map(([name, value]) => `  ${name.padEnd(width)}  ${value}`).join('\n');
}

/** A table in a frame. */
export function grid(names: readonly string[], rows: readonly (readonly string[])[]): string {
  const table = new Table({ style: { head: [], border: [], compact: true }, head: [...names] });
  for (const row of rows) table.push([...row]);
  return table.toString();
}

const borderless = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
  left: '',
  'left-mid': '',
  mid: '',
  'mid-mid': '',
  right: '',
  'right-mid': '',
  middle: '',
};

function trimLines(text: string): string {
  return text
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n');
}
